import { createGraph } from '../onnx/graph.ts'
import type { GraphBuilder, Value } from '../onnx/graph.ts'
import { castTo, reshape, silu, slice } from '../onnx/layers.ts'
import type { VaeConfig } from './config.ts'
import { CheckpointError } from './checkpoint-error.ts'
import type { TensorIndex } from './safetensors.ts'

const NORM_EPSILON = 1e-6

/**
 * Latents to pixels, always in float32: half precision overflows in the last blocks.
 *
 * Input `latents` float32 [1, latentChannels, rows, columns], as the denoiser leaves them; output `image`
 * float32 [1, 3, rows * scale, columns * scale] in 0..1. Output `decoded` is the same before scaling and clamping;
 * `magnitude` float32 [], the sum of its absolute values, is not finite when one of them is not: clamping hides it.
 *
 * @source AutoencoderKL decoder of the reference; scaling_factor is not used by this model
 */
export function buildVaeDecoder(config: VaeConfig, tensors: TensorIndex): Uint8Array {
  refuseUnknownLayers(tensors)
  const g = createGraph({ name: 'vae_decoder', tensors, compute: 'float32' })
  const { latentChannels, blockChannels, layersPerBlock, normGroups } = config
  const perChannel = (values: readonly number[]) =>
    g.constant(values, 'float32', [1, latentChannels, 1, 1])
  const latents = g.input('latents', 'float32', [1, latentChannels, 'rows', 'columns'])
  let x = g.op('Mul', [latents, perChannel(config.latentsStd)])
  x = g.op('Add', [x, perChannel(config.latentsMean)])

  const widths = blockChannels.toReversed()
  let channels = widths[0] ?? latentChannels
  x = addConv(g, x, { name: 'decoder.conv_in', from: latentChannels, to: channels, kernel: 3 })
  const addNext = (name: string, to: number) => {
    x = addResnet(g, x, { name, from: channels, to, groups: normGroups })
    channels = to
  }
  addNext('decoder.mid_block.resnets.0', channels)
  addNext('decoder.mid_block.resnets.1', channels)
  widths.forEach((width, block) => {
    for (let layer = 0; layer <= layersPerBlock; layer += 1) {
      addNext(`decoder.up_blocks.${block}.resnets.${layer}`, width)
    }
    if (block === widths.length - 1) return
    const name = `decoder.up_blocks.${block}.upsamplers.0.conv`
    x = addConv(g, addUpsample(g, x), { name, from: width, to: width, kernel: 3 })
  })
  x = addGroupNorm(g, x, { name: 'decoder.conv_norm_out', channels, groups: normGroups })
  const decoded = addConv(g, silu(g, x), {
    name: 'decoder.conv_out',
    from: channels,
    to: config.outChannels,
    kernel: 3,
  })
  const half = g.scalar(0.5, 'float32')
  const shifted = g.op('Add', [g.op('Mul', [decoded, half]), half])
  const image = g.op('Clip', [shifted, g.scalar(0, 'float32'), g.scalar(1, 'float32')])
  const shape = [1, config.outChannels, 'height', 'width']
  g.output(image, 'image', 'float32', shape)
  g.output(decoded, 'decoded', 'float32', shape)
  g.output(g.op('ReduceL1', [decoded], { keepdims: 0 }), 'magnitude', 'float32', [])
  return g.toBytes()
}

/** Layers that the graph leaves out; a file that has them was trained with them, whatever its configuration says. */
const UNKNOWN_LAYERS: readonly [prefix: string, key: string][] = [
  ['decoder.mid_block.attentions.', 'mid_block_add_attention'],
  ['post_quant_conv.', 'use_post_quant_conv'],
]

function refuseUnknownLayers(tensors: TensorIndex): void {
  for (const [prefix, key] of UNKNOWN_LAYERS) {
    const name = tensors.names().find((candidate) => candidate.startsWith(prefix))
    if (name === undefined) continue
    throw new CheckpointError(
      `${tensors.get(name).file}: tensor ${name} belongs to ${key} of vae/config.json, which is not supported`,
    )
  }
}

interface Change {
  name: string
  from: number
  to: number
}

function addResnet(g: GraphBuilder, x: Value, options: Change & { groups: number }): Value {
  const { name, from, to, groups } = options
  let y = addGroupNorm(g, x, { name: `${name}.norm1`, channels: from, groups })
  y = addConv(g, silu(g, y), { name: `${name}.conv1`, from, to, kernel: 3 })
  y = addGroupNorm(g, y, { name: `${name}.norm2`, channels: to, groups })
  y = addConv(g, silu(g, y), { name: `${name}.conv2`, from: to, to, kernel: 3 })
  const shortcut =
    from === to ? x : addConv(g, x, { name: `${name}.conv_shortcut`, from, to, kernel: 1 })
  return g.op('Add', [shortcut, y])
}

function addConv(g: GraphBuilder, x: Value, options: Change & { kernel: 1 | 3 }): Value {
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

function addUpsample(g: GraphBuilder, x: Value): Value {
  return g.op('Resize', [x, null, g.constant([1, 1, 2, 2], 'float32', [4])], {
    mode: 'nearest',
    coordinate_transformation_mode: 'asymmetric',
    nearest_mode: 'floor',
  })
}
