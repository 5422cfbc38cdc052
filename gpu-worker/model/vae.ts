import { createGraph } from '../onnx/graph.ts'
import type { GraphBuilder, Value } from '../onnx/graph.ts'
import { reshape, silu } from '../onnx/layers.ts'
import type { VaeConfig } from './config.ts'
import type { TensorIndex } from './safetensors.ts'

const NORM_EPSILON = 1e-6

/**
 * Latents to pixels, always in float32: half precision overflows in the last blocks.
 *
 * Input `latents` float32 [1, latentChannels, rows, columns], as the denoiser leaves them; output `image`
 * float32 [1, 3, rows * scale, columns * scale] in 0..1. Output `decoded` is the same before scaling and clamping.
 *
 * @source AutoencoderKL decoder of the reference; scaling_factor is not used by this model
 */
export function buildVaeDecoder(config: VaeConfig, tensors: TensorIndex): Uint8Array {
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
  x = addNorm(g, x, { name: 'decoder.conv_norm_out', channels, groups: normGroups })
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
  return g.toBytes()
}

interface Change {
  name: string
  from: number
  to: number
}

function addResnet(g: GraphBuilder, x: Value, options: Change & { groups: number }): Value {
  const { name, from, to, groups } = options
  let y = addNorm(g, x, { name: `${name}.norm1`, channels: from, groups })
  y = addConv(g, silu(g, y), { name: `${name}.conv1`, from, to, kernel: 3 })
  y = addNorm(g, y, { name: `${name}.norm2`, channels: to, groups })
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

/** Group norm as an instance norm over groups: that operator has a kernel of its own on every provider. */
function addNorm(
  g: GraphBuilder,
  x: Value,
  options: { name: string; channels: number; groups: number },
): Value {
  const { name, channels, groups } = options
  const fill = (value: number) =>
    g.constant(new Float32Array(groups).fill(value), 'float32', [groups])
  const grouped = reshape(g, x, [0, groups, -1])
  const normal = g.op('InstanceNormalization', [grouped, fill(1), fill(0)], {
    epsilon: { float: NORM_EPSILON },
  })
  const restored = g.op('Reshape', [normal, g.op('Shape', [x])])
  const perChannel = (part: string) =>
    reshape(g, g.weight(`${name}.${part}`, { shape: [channels] }), [1, channels, 1, 1])
  const scaled = g.op('Mul', [restored, perChannel('weight')])
  return g.op('Add', [scaled, perChannel('bias')])
}

function addUpsample(g: GraphBuilder, x: Value): Value {
  return g.op('Resize', [x, null, g.constant([1, 1, 2, 2], 'float32', [4])], {
    mode: 'nearest',
    coordinate_transformation_mode: 'asymmetric',
    nearest_mode: 'floor',
  })
}
