import { createGraph } from '../onnx/graph.ts'
import type { GraphBuilder, Value } from '../onnx/graph.ts'
import { castTo } from '../onnx/layers.ts'
import type { DenoiserModel } from './transformer-conditions.ts'
import { addBlocks, addStreams, addVectors, addVelocity, floats } from './transformer.ts'

/**
 * The first block of the denoiser alone. Inputs and outputs are those of `buildDenoiser` for this block, and more.
 *
 * Input: `before` float32 [tokens, D], what the block added to the image stream at an earlier step.
 * Outputs, float32: `image` [tokens, D] and `text_out` [texts, D], the streams behind it; `added` [tokens, D], what it added
 * now; `change` [], the mean size of the difference between both, relative to the mean size of `before`.
 *
 * @source first-block cache: ParaAttention, after the idea of TeaCache (Liu et al. 2024)
 */
export function buildFirstBlock({ config, tensors, compute }: DenoiserModel): Uint8Array {
  const g = createGraph({ name: 'first_block', tensors, compute })
  const start = addStreams(g, config)
  const vectors = addVectors(g, config)
  const { image, text } = addBlocks(g, start, { config, vectors, from: 0, to: 1 })
  const inFloat32 = (value: Value) => castTo(g, value, 'float32')
  const added = g.op('Sub', [inFloat32(image), inFloat32(start.image)])
  const before = g.input('before', 'float32', ['tokens', config.innerSize])
  const meanSize = (value: Value) => g.op('ReduceMean', [g.op('Abs', [value])], { keepdims: 0 })
  const change = g.op('Div', [meanSize(g.op('Sub', [added, before])), meanSize(before)])
  publish(g, image, 'image', ['tokens', config.innerSize])
  publish(g, text, 'text_out', ['texts', config.innerSize])
  publish(g, added, 'added', ['tokens', config.innerSize])
  g.output(change, 'change', 'float32', [])
  return g.toBytes()
}

/**
 * All blocks but the first, and the velocity.
 *
 * Inputs: `image` and `text` float32, the streams behind the first block; the others as for `buildDenoiser`.
 * Outputs: those of `buildDenoiser` for these blocks, and `rest` float32 [tokens, D], what they added to the image stream.
 */
export function buildOtherBlocks({ config, tensors, compute }: DenoiserModel): Uint8Array {
  const g = createGraph({ name: 'other_blocks', tensors, compute })
  const start = {
    image: floats(g, 'image', ['tokens', config.innerSize]),
    text: floats(g, 'text', ['texts', config.innerSize]),
  }
  const vectors = addVectors(g, config)
  const { image } = addBlocks(g, start, { config, vectors, from: 1, to: config.layerCount })
  publish(g, g.op('Sub', [image, start.image]), 'rest', ['tokens', config.innerSize])
  addVelocity(g, image, { config, vectors })
  return g.toBytes()
}

/** The velocity from `image` behind the first block and the `rest` of an earlier step, both float32 [tokens, D]. */
export function buildShortcut({ config, tensors, compute }: DenoiserModel): Uint8Array {
  const g = createGraph({ name: 'shortcut', tensors, compute })
  const parts = ['image', 'rest'].map((name) => floats(g, name, ['tokens', config.innerSize]))
  addVelocity(g, g.op('Add', parts), { config, vectors: addVectors(g, config) })
  return g.toBytes()
}

function publish(g: GraphBuilder, value: Value, name: string, shape: (number | string)[]): void {
  g.output(castTo(g, value, 'float32'), name, 'float32', shape)
}
