import type { GraphBuilder, Value } from '../onnx/graph.ts'
import { castTo, reshape, silu, slice } from '../onnx/layers.ts'

/** What both halves between latents and pixels are made of; all of it is float32. */

const NORM_EPSILON = 1e-6

export interface Change {
  name: string
  from: number
  to: number
}

/** Two convolutions beside a shortcut, which is one itself where the channels change. */
export function addResnet(g: GraphBuilder, x: Value, options: Change & { groups: number }): Value {
  const { name, from, to, groups } = options
  let y = addGroupNorm(g, x, { name: `${name}.norm1`, channels: from, groups })
  y = addConv(g, silu(g, y), { name: `${name}.conv1`, from, to, kernel: 3 })
  y = addGroupNorm(g, y, { name: `${name}.norm2`, channels: to, groups })
  y = addConv(g, silu(g, y), { name: `${name}.conv2`, from: to, to, kernel: 3 })
  const shortcut =
    from === to ? x : addConv(g, x, { name: `${name}.conv_shortcut`, from, to, kernel: 1 })
  return g.op('Add', [shortcut, y])
}

/** A convolution that keeps the size. */
export function addConv(g: GraphBuilder, x: Value, options: Change & { kernel: 1 | 3 }): Value {
  const { name, from, to, kernel } = options
  const weight = g.weight(`${name}.weight`, { shape: [to, from, kernel, kernel] })
  const bias = g.weight(`${name}.bias`, { shape: [to] })
  const pad = (kernel - 1) / 2
  return g.op('Conv', [x, weight, bias], {
    kernel_shape: [kernel, kernel],
    pads: [pad, pad, pad, pad],
  })
}

/**
 * Group norm over float32 [1, channels, rows, columns]; learned scale and shift are `<name>.weight`, `<name>.bias`.
 *
 * Means are taken of rows first and then over the rows. InstanceNormalization sums a whole group one after another in
 * float32 on a processor: at 26 million elements, the last block of a 1280x1280 picture, that is off by 1.6e-3.
 */
export function addGroupNorm(
  g: GraphBuilder,
  x: Value,
  options: { name: string; channels: number; groups: number },
): Value {
  const { name, channels, groups } = options
  const shape = g.op('Shape', [x])
  const head = g.constant([1, groups, -1], 'int64', [3])
  const byRows = g.op('Concat', [head, slice(g, shape, 0, 3, 4)], { axis: 0 })
  const grouped = g.op('Reshape', [x, byRows])
  const meanOver = (value: Value, axis: number) =>
    g.op('ReduceMean', [value, g.constant([axis], 'int64', [1])], { keepdims: 1 })
  const centred = g.op('Sub', [grouped, meanOver(meanOver(grouped, 3), 2)])
  const squares = g.op('ReduceSumSquare', [centred, g.constant([3], 'int64', [1])], { keepdims: 1 })
  const columns = castTo(g, slice(g, shape, 0, 3, 4), 'float32')
  const variance = meanOver(g.op('Div', [squares, columns]), 2)
  const deviation = g.op('Sqrt', [g.op('Add', [variance, g.scalar(NORM_EPSILON, 'float32')])])
  // Scaling by group and by channel in one pass: the planes are large, these factors are not.
  const weight = g.weight(`${name}.weight`, { shape: [channels] })
  const byGroup = reshape(g, weight, [1, groups, channels / groups, 1])
  const factor = reshape(g, g.op('Div', [byGroup, deviation]), [1, channels, 1, 1])
  const scaled = g.op('Mul', [g.op('Reshape', [centred, shape]), factor])
  const bias = reshape(g, g.weight(`${name}.bias`, { shape: [channels] }), [1, channels, 1, 1])
  return g.op('Add', [scaled, bias])
}
