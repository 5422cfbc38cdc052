import type { GraphBuilder, Value } from '../onnx/graph.ts'
import { castTo, slice } from '../onnx/layers.ts'

export interface NucleusOptions {
  temperature: number
  topP: number
  topK: number
  /** Ids from here on are never sampled: the end marker inside a grid would cut the picture short. */
  codebookSize: number
}

/**
 * Samples one token per row: temperature, top-k, the shortest prefix whose probability reaches top-p, then the
 * inverse of the cumulative distribution at a uniform number that the caller drew.
 *
 * @param logits float32 [rows, vocabulary]
 * @param uniform float32 [rows, 1], in [0, 1)
 * @returns `token` int64 [rows, 1]; `mass` float32 [rows, 1], the probability of all tokens that could be drawn: NaN when the
 *   logits are not finite, and the token then means nothing
 */
export function sampleNucleus(
  g: GraphBuilder,
  logits: Value,
  uniform: Value,
  options: NucleusOptions,
): { token: Value; mass: Value } {
  const { temperature, topP, codebookSize } = options
  const candidates = options.topK > 0 ? Math.min(options.topK, codebookSize) : codebookSize
  const inGrid = slice(g, logits, 1, 0, codebookSize)
  const scaled = g.op('Div', [inGrid, g.scalar(temperature, 'float32')])
  const count = g.constant([candidates], 'int64', [1])
  const [sorted, ids] = g.ops('TopK', [scaled, count], 2, { axis: 1, largest: 1, sorted: 1 })
  if (!sorted || !ids) throw new Error('TopK has two outputs')
  const axis = g.scalar(1, 'int64')
  const probability = g.op('Softmax', [sorted], { axis: 1 })
  const before = g.op('CumSum', [probability, axis], { exclusive: 1 })
  const isKept = castTo(g, g.op('Less', [before, g.scalar(topP, 'float32')]), 'float32')
  const kept = g.op('CumSum', [g.op('Mul', [probability, isKept]), axis])
  const mass = slice(g, kept, 1, candidates - 1, candidates)
  const passed = g.op('LessOrEqual', [kept, g.op('Mul', [uniform, mass])])
  const sum = (value: Value) =>
    g.op('ReduceSum', [value, g.constant([1], 'int64', [1])], { keepdims: 1 })
  // Rounding may carry the draw past the last kept token; it is the last one then.
  const last = g.op('Sub', [sum(isKept), g.scalar(1, 'float32')])
  const place = g.op('Min', [sum(castTo(g, passed, 'float32')), last])
  const token = g.op('GatherElements', [ids, castTo(g, place, 'int64')], { axis: 1 })
  return { token, mass }
}

/** The likeliest token, end marker included. @returns int64 [rows, 1] */
export function pickLikeliest(g: GraphBuilder, logits: Value): Value {
  return g.op('ArgMax', [logits], { axis: 1, keepdims: 1 })
}
