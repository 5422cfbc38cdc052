import type { GraphBuilder, QuantisedMatrix, Value } from './graph.ts'
import { DATA_TYPES } from './proto.ts'
import type { Dtype } from './proto.ts'

const CONTRIB = { domain: 'com.microsoft' }

/** Changes the element type. */
export function castTo(g: GraphBuilder, x: Value, dtype: Dtype): Value {
  return g.op('Cast', [x], { to: DATA_TYPES[dtype] })
}

/** Reshapes; -1 infers one size, 0 copies the size at that place. */
export function reshape(g: GraphBuilder, x: Value, shape: readonly number[]): Value {
  return g.op('Reshape', [x, g.constant(shape, 'int64', [shape.length])])
}

/** Slices one axis from `start` to `end` (exclusive; use `END` for the rest). */
export function slice(g: GraphBuilder, x: Value, axis: number, start: number, end: number): Value {
  const one = (value: number) => g.constant([value], 'int64', [1])
  return g.op('Slice', [x, one(start), one(end), one(axis)])
}

/** Past the end of any axis. */
export const END = 2 ** 53 - 1

/**
 * y = x W^T + b over the last axis, in 8 bits where the graph has the weight so. Activations are flattened to two dimensions around a Gemm with transB,
 * which reads the [out, in] weight as it lies in the file; a Transpose would be folded into a second copy.
 *
 * @param x [..., inSize]; all leading axes may be symbolic
 * @param rank number of axes of x
 */
export function linear(
  g: GraphBuilder,
  x: Value,
  options: { name: string; inSize: number; outSize: number; bias: boolean; rank: number },
): Value {
  const { name, inSize, outSize, rank } = options
  const quantised = g.quantised(`${name}.weight`, [outSize, inSize])
  if (quantised) return quantisedLinear(g, x, quantised, options)
  const weight = g.weight(`${name}.weight`, { shape: [outSize, inSize] })
  const bias = options.bias ? g.weight(`${name}.bias`, { shape: [outSize] }) : null
  if (rank === 2) return g.op('Gemm', bias ? [x, weight, bias] : [x, weight], { transB: 1 })
  const flat = reshape(g, x, [-1, inSize])
  const y = g.op('Gemm', bias ? [flat, weight, bias] : [flat, weight], { transB: 1 })
  const lead = slice(g, g.op('Shape', [x]), 0, 0, rank - 1)
  const shape = g.op('Concat', [lead, g.constant([outSize], 'int64', [1])], { axis: 0 })
  return g.op('Reshape', [y, shape])
}

/**
 * How far the runtime may round activations: to 8 bits. It is the only one with a fast kernel on processors; with 0 a product
 * there takes a hundred times as long, every number of the weight being widened for it.
 */
const ACCURACY_LEVEL = 4

function quantisedLinear(
  g: GraphBuilder,
  x: Value,
  { values, scales, blockSize }: QuantisedMatrix,
  options: { name: string; inSize: number; outSize: number; bias: boolean },
): Value {
  const { name, inSize, outSize } = options
  const attributes = {
    K: inSize,
    N: outSize,
    bits: 8,
    block_size: blockSize,
    accuracy_level: ACCURACY_LEVEL,
  }
  const y = g.op('MatMulNBits', [x, values, scales], attributes, CONTRIB)
  return options.bias ? g.op('Add', [y, g.weight(`${name}.bias`, { shape: [outSize] })]) : y
}

/** y = x / sqrt(mean(x^2) + eps) * weight over the last axis; statistics in float32. */
export function rmsNorm(g: GraphBuilder, x: Value, weight: Value, epsilon: number): Value {
  return g.op('SimplifiedLayerNormalization', [x, weight], {
    axis: -1,
    epsilon: { float: epsilon },
    stash_type: 1,
  })
}

/** Layer norm over the last axis without learned scale or shift. */
export function plainLayerNorm(g: GraphBuilder, x: Value, size: number, epsilon: number): Value {
  const ones = g.constant(new Float32Array(size).fill(1), 'float32', [size])
  const scale = g.compute === 'float32' ? ones : castTo(g, ones, g.compute)
  return g.op('LayerNormalization', [x, scale], { axis: -1, epsilon: { float: epsilon } })
}

/** Layer norm over the last axis; learned scale and shift are `<name>.weight`, `<name>.bias`. */
export function layerNorm(
  g: GraphBuilder,
  x: Value,
  { name, size, epsilon }: { name: string; size: number; epsilon: number },
): Value {
  const weight = g.weight(`${name}.weight`, { shape: [size] })
  const bias = g.weight(`${name}.bias`, { shape: [size] })
  return g.op('LayerNormalization', [x, weight, bias], { axis: -1, epsilon: { float: epsilon } })
}

/** x * sigmoid(x). */
export function silu(g: GraphBuilder, x: Value): Value {
  return g.op('Mul', [x, g.op('Sigmoid', [x])])
}

/** The exact GELU, by the error function. */
export function geluErf(g: GraphBuilder, x: Value): Value {
  return g.op('Gelu', [x], { approximate: 'none' })
}

/** The tanh form of GELU. */
export function geluTanh(g: GraphBuilder, x: Value): Value {
  return g.op('Gelu', [x], { approximate: 'tanh' })
}

/**
 * Full attention without a mask: softmax(q k^T * scale) v, fused so that the score matrix of a large
 * picture is never held whole.
 *
 * @param q [batch, queries, heads * headSize]
 * @param k [batch, keys, heads * headSize]
 * @param v same shape as k
 * @param bias added to the scores, [1 or batch, heads, queries, keys]
 * @returns [batch, queries, heads * headSize]
 */
export function attention(
  g: GraphBuilder,
  inputs: { q: Value; k: Value; v: Value; bias?: Value },
  options: { heads: number; scale: number },
): Value {
  const { q, k, v, bias } = inputs
  return g.op(
    'MultiHeadAttention',
    bias ? [q, k, v, null, null, bias] : [q, k, v],
    { num_heads: options.heads, scale: { float: options.scale } },
    CONTRIB,
  )
}
