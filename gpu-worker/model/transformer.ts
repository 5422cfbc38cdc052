import { createGraph } from '../onnx/graph.ts'
import type { GraphBuilder, Value } from '../onnx/graph.ts'
import {
  attention,
  castTo,
  END,
  geluTanh,
  linear,
  plainLayerNorm,
  reshape,
} from '../onnx/layers.ts'
import type { TransformerConfig } from './config.ts'
import { VECTORS_PER_BLOCK } from './transformer-conditions.ts'
import type { DenoiserModel } from './transformer-conditions.ts'

const NORM_EPSILON = 1e-5
/** Widening of the feed-forward layer, fixed by the architecture. */
const FEED_FORWARD_FACTOR = 4

/**
 * One evaluation of the denoiser.
 *
 * Inputs, float32: `patches` [tokens, inChannels * patch^2] (channel, row, column inside a patch); `text` [texts, D];
 * `prior` [tokens or 1, D]; `modulation` [12 * layers + 2, D]; `cos` and `sin` [texts + tokens, headDim / 2], with 1 and 0
 * in the rows of text, which is not rotated; per layer `source_key_i` and `source_value_i` [1, sources, D], what earlier
 * calls kept of condition images, [1, 0, D] where there is none; `kept` int64 [1], how many rows of its own this call keeps.
 * Outputs, float32: `velocity` [tokens, outChannels * patch^2]; per layer `key_i` and `value_i` [1, kept, D], rotated.
 *
 * Reading a condition image and denoising are one graph so that the weights are loaded once. With `kept` 0, as in every
 * step, nothing is copied out.
 */
export function buildDenoiser({ config, tensors, compute }: DenoiserModel): Uint8Array {
  const g = createGraph({ name: 'denoiser', tensors, compute })
  const streams = addStreams(g, config)
  const vectors = addVectors(g, config)
  const { image } = addBlocks(g, streams, { config, vectors, from: 0, to: config.layerCount })
  addVelocity(g, image, { config, vectors })
  return g.toBytes()
}

/** What enters the first block. */
export function addStreams(g: GraphBuilder, config: TransformerConfig): Streams {
  const { innerSize, patchSize, inChannels } = config
  const area = patchSize * patchSize
  const patches = floats(g, 'patches', ['tokens', inChannels * area])
  const prior = floats(g, 'prior', ['priors', innerSize])
  const embedded = linear(g, patches, {
    name: 'image_projector.proj',
    inSize: inChannels * area,
    outSize: innerSize,
    bias: true,
    rank: 2,
  })
  return {
    image: g.op('Add', [embedded, prior]),
    text: floats(g, 'text', ['texts', innerSize]),
  }
}

/** What the time does: the rows of `modulation`. */
export function addVectors(g: GraphBuilder, config: TransformerConfig): Value[] {
  const count = VECTORS_PER_BLOCK * config.layerCount + 2
  const modulation = floats(g, 'modulation', [count, config.innerSize])
  return g.ops('Split', [modulation], count, { axis: 0, num_outputs: count })
}

/** Publishes the velocity that the image stream behind the last block means. */
export function addVelocity(
  g: GraphBuilder,
  image: Value,
  { config, vectors }: { config: TransformerConfig; vectors: readonly Value[] },
): void {
  const { innerSize, patchSize, outChannels } = config
  const area = patchSize * patchSize
  const [scale, shift] = vectors.slice(-2)
  if (!scale || !shift) throw new Error('the output norm has no scale and shift')
  const normal = addModulatedNorm(g, image, { scale, shift, size: innerSize })
  const velocity = linear(g, normal, {
    name: 'proj_out',
    inSize: innerSize,
    outSize: outChannels * area,
    bias: true,
    rank: 2,
  })
  g.output(castTo(g, velocity, 'float32'), 'velocity', 'float32', ['tokens', outChannels * area])
}

/** A float32 input in the compute type. */
export function floats(g: GraphBuilder, name: string, shape: readonly (number | string)[]): Value {
  return castTo(g, g.input(name, 'float32', shape), g.compute)
}

export interface Streams {
  image: Value
  text: Value
}

interface Rotary {
  cos: Value
  sin: Value
}

interface BlockOptions {
  config: TransformerConfig
  name: string
  vectors: readonly Value[]
  rotary: Rotary
  textLength: Value
  sources: { key: Value; value: Value }
  /** Publishes the rows that the caller asked to keep. */
  keep: (kind: 'key' | 'value', value: Value) => void
  isLast: boolean
}

/** The blocks from `from` to `to` (exclusive), and their inputs and outputs beside the streams. */
export function addBlocks(
  g: GraphBuilder,
  start: Streams,
  options: { config: TransformerConfig; vectors: readonly Value[]; from: number; to: number },
): Streams {
  const { config, vectors, from, to } = options
  const { innerSize, layerCount, headDim } = config
  const kept = g.input('kept', 'int64', [1])
  const rotary = {
    cos: g.input('cos', 'float32', ['positions', headDim / 2]),
    sin: g.input('sin', 'float32', ['positions', headDim / 2]),
  }
  const textLength = g.op('Shape', [start.text], { start: 0, end: 1 })
  const zero = g.constant([0], 'int64', [1])
  const axis = g.constant([1], 'int64', [1])
  let streams = start
  for (let layer = from; layer < to; layer += 1) {
    streams = addBlock(g, streams, {
      config,
      name: `transformer_blocks.${layer}`,
      vectors: vectors.slice(layer * VECTORS_PER_BLOCK, (layer + 1) * VECTORS_PER_BLOCK),
      rotary,
      textLength,
      sources: {
        key: floats(g, `source_key_${layer}`, [1, 'sources', innerSize]),
        value: floats(g, `source_value_${layer}`, [1, 'sources', innerSize]),
      },
      keep(kind, value) {
        const rows = castTo(g, g.op('Slice', [value, zero, kept, axis]), 'float32')
        g.output(rows, `${kind}_${layer}`, 'float32', [1, 'kept', innerSize])
      },
      isLast: layer === layerCount - 1,
    })
  }
  return streams
}

/** A block over both streams with one set of weights; the text that leaves the last block is never read. */
function addBlock(g: GraphBuilder, streams: Streams, options: BlockOptions): Streams {
  const { config, vectors, textLength, isLast } = options
  const image = pickVectors(vectors, 0)
  const text = pickVectors(vectors, 1)
  const size = config.innerSize
  const normalImage = addModulatedNorm(g, streams.image, { ...image.attention, size })
  const normalText = addModulatedNorm(g, streams.text, { ...text.attention, size })
  const joined = addAttention(g, g.op('Concat', [normalText, normalImage], { axis: 0 }), options)
  const zero = g.constant([0], 'int64', [1])
  const end = g.constant([END], 'int64', [1])
  const addBranches = (stream: Value, attended: Value, own: typeof image) => {
    const x = addGated(g, stream, attended, own.attention.gate)
    const normal = addModulatedNorm(g, x, { ...own.feedForward, size })
    return addGated(g, x, addFeedForward(g, normal, options), own.feedForward.gate)
  }
  const imagePart = g.op('Slice', [joined, textLength, end, zero])
  const nextImage = addBranches(streams.image, imagePart, image)
  if (isLast) return { image: nextImage, text: streams.text }
  const textPart = g.op('Slice', [joined, zero, textLength, zero])
  return { image: nextImage, text: addBranches(streams.text, textPart, text) }
}

/** The twelve vectors are shift, scale, gate of attention, then of the feed-forward; of each, image before text. */
function pickVectors(vectors: readonly Value[], stream: 0 | 1) {
  const pick = (kind: number) => {
    const vector = vectors[kind * 2 + stream]
    if (!vector) throw new Error(`a block needs ${VECTORS_PER_BLOCK} vectors`)
    return vector
  }
  return {
    attention: { shift: pick(0), scale: pick(1), gate: pick(2) },
    feedForward: { shift: pick(3), scale: pick(4), gate: pick(5) },
  }
}

function addGated(g: GraphBuilder, base: Value, branch: Value, gate: Value): Value {
  return g.op('Add', [base, g.op('Mul', [branch, gate])])
}

function addFeedForward(g: GraphBuilder, x: Value, { config, name }: BlockOptions): Value {
  const size = config.innerSize
  const wideSize = FEED_FORWARD_FACTOR * size
  const wide = linear(g, x, {
    name: `${name}.ff.net.0.proj`,
    inSize: size,
    outSize: wideSize,
    bias: true,
    rank: 2,
  })
  return linear(g, geluTanh(g, wide), {
    name: `${name}.ff.net.2`,
    inSize: wideSize,
    outSize: size,
    bias: true,
    rank: 2,
  })
}

function addAttention(g: GraphBuilder, x: Value, options: BlockOptions): Value {
  const { config, name, rotary } = options
  const { innerSize, headCount, headDim } = config
  const project = (part: string, input: Value) =>
    linear(g, input, {
      name: `${name}.attn1.${part}`,
      inSize: innerSize,
      outSize: innerSize,
      bias: true,
      rank: 2,
    })
  const normalAndRotated = (part: string) => {
    const heads = reshape(g, project(part, x), [-1, headCount, headDim])
    const normal = plainLayerNorm(g, heads, headDim, NORM_EPSILON)
    return addRotation(g, reshape(g, normal, [1, -1, innerSize]), rotary, headCount)
  }
  const own = {
    key: normalAndRotated('to_k'),
    value: reshape(g, project('to_v', x), [1, -1, innerSize]),
  }
  const behindSources = (kind: 'key' | 'value') => {
    options.keep(kind, own[kind])
    return g.op('Concat', [options.sources[kind], own[kind]], { axis: 1 })
  }
  const output = attention(
    g,
    { q: normalAndRotated('to_q'), k: behindSources('key'), v: behindSources('value') },
    { heads: headCount, scale: headDim ** -0.5 },
  )
  return project('to_out.0', reshape(g, output, [-1, innerSize]))
}

/** Half-split rotation over whole heads, in float32 whatever the compute type. */
function addRotation(g: GraphBuilder, x: Value, { cos, sin }: Rotary, headCount: number): Value {
  const start = g.constant([0], 'int64', [1])
  const rotated = g.op(
    'RotaryEmbedding',
    [castTo(g, x, 'float32'), start, cos, sin],
    { interleaved: 0, num_heads: headCount },
    { domain: 'com.microsoft' },
  )
  return castTo(g, rotated, g.compute)
}

function addModulatedNorm(
  g: GraphBuilder,
  x: Value,
  { scale, shift, size }: { scale: Value; shift: Value; size: number },
): Value {
  const normal = plainLayerNorm(g, x, size, NORM_EPSILON)
  const factor = g.op('Add', [scale, g.scalar(1, g.compute)])
  return g.op('Add', [g.op('Mul', [normal, factor]), shift])
}
