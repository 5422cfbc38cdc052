import { createGraph } from '../onnx/graph.ts'
import type { ComputeType, GraphBuilder, Value } from '../onnx/graph.ts'
import { castTo, geluErf, linear, reshape, silu } from '../onnx/layers.ts'
import type { TransformerConfig } from './config.ts'
import type { TensorIndex } from './safetensors.ts'

/**
 * The denoiser is three graphs, split by how often their inputs change: once per picture and once per step (here),
 * once per step and guidance branch (transformer.ts). They share no weights, so nothing is loaded twice.
 */
export interface DenoiserModel {
  config: TransformerConfig
  tensors: TensorIndex
  compute: ComputeType
}

/** Vectors that one block takes from the time embedding. */
export const VECTORS_PER_BLOCK = 12

/**
 * What a picture's steps share.
 *
 * Inputs: `glyph` float32 [glyphs, textSize] and `glyph_null` float32 [nulls, textSize], encoder states of the quoted
 * text and of the empty text; `prior_ids` int64 [tokens]; `size_features` float32 [1, 4 * conditionSize].
 * Outputs, float32: `text` [glyphs, D], `text_null` [nulls, D], `prior` [tokens, D], `prior_null` [1, D] (the
 * projector's biases remain when the prior is dropped), `size_embedding` [1, timeSize].
 */
export function buildConditions({ config, tensors, compute }: DenoiserModel): Uint8Array {
  const g = createGraph({ name: 'conditions', tensors, compute })
  const { innerSize, textSize, timeSize, codebookSize } = config
  const floats = (name: string, shape: readonly (number | string)[]) =>
    castTo(g, g.input(name, 'float32', shape), compute)
  const publish = (value: Value, name: string, shape: readonly (number | string)[]) =>
    g.output(castTo(g, value, 'float32'), name, 'float32', shape)

  for (const [input, output, rows] of [
    ['glyph', 'text', 'glyphs'],
    ['glyph_null', 'text_null', 'nulls'],
  ] as const) {
    const states = floats(input, [rows, textSize])
    const text = addProjector(g, states, {
      name: 'glyph_projector',
      inSize: textSize,
      size: innerSize,
      activate: geluErf,
    })
    publish(text, output, [rows, innerSize])
  }
  const table = g.weight('prior_token_embedding.weight', { shape: [codebookSize, innerSize] })
  const embedded = g.op('Gather', [table, g.input('prior_ids', 'int64', ['tokens'])])
  const project = (x: Value) =>
    addProjector(g, x, {
      name: 'prior_projector',
      inSize: innerSize,
      size: innerSize,
      activate: silu,
    })
  publish(project(embedded), 'prior', ['tokens', innerSize])
  const zeros = g.constant(new Float32Array(innerSize), 'float32', [1, innerSize])
  publish(project(castTo(g, zeros, compute)), 'prior_null', [1, innerSize])

  const features = floats('size_features', [1, 4 * config.conditionSize])
  const size = addEmbedder(g, features, {
    name: 'condition_embedder',
    inSize: 4 * config.conditionSize,
    size: timeSize,
  })
  publish(size, 'size_embedding', [1, timeSize])
  return g.toBytes()
}

/**
 * Every scale, shift and gate of one step; both guidance branches use the same.
 *
 * Inputs: `time_features` float32 [1, timeSize], `size_embedding` float32 [1, timeSize].
 * Output `modulation` float32 [12 * layers + 2, D]: twelve rows per block, then scale and shift of the output norm.
 */
export function buildModulation({ config, tensors, compute }: DenoiserModel): Uint8Array {
  const g = createGraph({ name: 'modulation', tensors, compute })
  const { innerSize, timeSize, layerCount } = config
  const features = castTo(g, g.input('time_features', 'float32', [1, timeSize]), compute)
  const size = castTo(g, g.input('size_embedding', 'float32', [1, timeSize]), compute)
  const time = addEmbedder(g, features, {
    name: 'timestep_embedder',
    inSize: timeSize,
    size: timeSize,
  })
  const embedding = silu(g, g.op('Add', [time, size]))
  const rows = (name: string, count: number) =>
    reshape(
      g,
      linear(g, embedding, {
        name,
        inSize: timeSize,
        outSize: count * innerSize,
        bias: true,
        rank: 2,
      }),
      [count, innerSize],
    )
  const blocks = Array.from({ length: layerCount }, (_, layer) =>
    rows(`transformer_blocks.${layer}.norm1.linear`, VECTORS_PER_BLOCK),
  )
  const all = g.op('Concat', [...blocks, rows('norm_out.linear', 2)], { axis: 0 })
  const count = VECTORS_PER_BLOCK * layerCount + 2
  g.output(castTo(g, all, 'float32'), 'modulation', 'float32', [count, innerSize])
  return g.toBytes()
}

function addProjector(
  g: GraphBuilder,
  x: Value,
  options: {
    name: string
    inSize: number
    size: number
    activate: (g: GraphBuilder, x: Value) => Value
  },
): Value {
  const { name, inSize, size, activate } = options
  const first = linear(g, x, {
    name: `${name}.net.0.proj`,
    inSize,
    outSize: size,
    bias: true,
    rank: 2,
  })
  return linear(g, activate(g, first), {
    name: `${name}.net.2`,
    inSize: size,
    outSize: size,
    bias: true,
    rank: 2,
  })
}

function addEmbedder(
  g: GraphBuilder,
  x: Value,
  options: { name: string; inSize: number; size: number },
): Value {
  const { inSize, size } = options
  const name = `time_condition_embed.${options.name}`
  const first = linear(g, x, {
    name: `${name}.linear_1`,
    inSize,
    outSize: size,
    bias: true,
    rank: 2,
  })
  return linear(g, silu(g, first), {
    name: `${name}.linear_2`,
    inSize: size,
    outSize: size,
    bias: true,
    rank: 2,
  })
}
