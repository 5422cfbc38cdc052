import type { AutoregressiveConfig } from './config.ts'
import { DECODER_PREFIX } from './decoder-layers.ts'
import type { QuantisedWeights } from './quantised.ts'
import type { TensorIndex } from './safetensors.ts'
import { pickLikeliest, sampleNucleus } from './token-sampling.ts'
import type { NucleusOptions } from './token-sampling.ts'
import type { ComputeType, GraphBuilder, Value } from '../onnx/graph.ts'
import { castTo, linear, reshape, rmsNorm } from '../onnx/layers.ts'

/** How the next token is chosen. `forced` takes it from the input, to follow a reference. */
export type TokenChoice = 'nucleus' | 'likeliest' | 'forced'

export interface DecoderOptions {
  config: AutoregressiveConfig
  tensors: TensorIndex
  /** Takes the place of the matrices that it has. */
  quantised?: QuantisedWeights
  compute: ComputeType
  choice: TokenChoice
  sampling: NucleusOptions
  /** Also put out the logits of every prompt position and of every step. */
  withLogits: boolean
}

/** Of one layer's keys or values, with `length` tokens or a symbol for them. */
export function cacheShape(config: AutoregressiveConfig, length: string): (number | string)[] {
  return ['batch', config.keyValueHeadCount, length, config.headDim]
}

/** Final norm and vocabulary head: [rows, hidden size] -> float32 [rows, vocabulary]. */
export function addHead(g: GraphBuilder, options: DecoderOptions, hidden: Value): Value {
  const { hiddenSize, normEpsilon, visionVocabularySize } = options.config
  const weight = g.weight(`${DECODER_PREFIX}.norm.weight`, { shape: [hiddenSize] })
  const logits = linear(g, rmsNorm(g, hidden, weight, normEpsilon), {
    name: 'lm_head',
    inSize: hiddenSize,
    outSize: visionVocabularySize,
    bias: false,
    rank: 2,
  })
  return castTo(g, logits, 'float32')
}

export interface Choice {
  token: Value
  /** Null where nothing is drawn. */
  mass: Value | null
}

/** The next token of every picture, from float32 logits [B, vocabulary] and one draw each [B, 1]. */
export function chooseToken(
  g: GraphBuilder,
  options: DecoderOptions,
  logits: Value,
  draw: Value,
): Choice {
  if (options.choice === 'forced') return { token: draw, mass: null }
  if (options.choice === 'likeliest') return { token: pickLikeliest(g, logits), mass: null }
  return sampleNucleus(g, logits, draw, options.sampling)
}

/** The draws of one step, one per picture: [N, B] -> [B, 1]. */
export function drawAt(g: GraphBuilder, draws: Value, step: Value): Value {
  return reshape(g, pickAt(g, draws, step, 0), [-1, 1])
}

/** The slice of a tensor at `index` (a scalar) of one axis, which stays with length 1. */
export function pickAt(g: GraphBuilder, table: Value, index: Value, axis: number): Value {
  const at = g.op('Unsqueeze', [index, g.constant([0], 'int64', [1])])
  return g.op('Gather', [table, at], { axis })
}

export function layerIndexes(config: AutoregressiveConfig): number[] {
  return Array.from({ length: config.layerCount }, (_, layer) => layer)
}
