import { createGraph } from '../onnx/graph.ts'
import type { GraphBuilder, Value } from '../onnx/graph.ts'
import { silu } from '../onnx/layers.ts'
import type { VaeConfig } from './config.ts'
import { CheckpointError } from './checkpoint-error.ts'
import type { TensorIndex } from './safetensors.ts'
import { addConv, addGroupNorm, addResnet } from './vae-layers.ts'

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
  refuseLayers(tensors, UNKNOWN_LAYERS)
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
const UNKNOWN_LAYERS: readonly UnknownLayers[] = [
  [/^decoder\.mid_block\.attentions\./, 'mid_block_add_attention'],
  [/^post_quant_conv\./, 'use_post_quant_conv'],
]

export type UnknownLayers = readonly [pattern: RegExp, key: string]

/** @throws CheckpointError naming the first tensor of such a layer */
export function refuseLayers(tensors: TensorIndex, layers: readonly UnknownLayers[]): void {
  for (const [pattern, key] of layers) {
    const name = tensors.names().find((candidate) => pattern.test(candidate))
    if (name === undefined) continue
    throw new CheckpointError(
      `${tensors.get(name).file}: tensor ${name} belongs to ${key} of vae/config.json, which is not supported`,
    )
  }
}

function addUpsample(g: GraphBuilder, x: Value): Value {
  return g.op('Resize', [x, null, g.constant([1, 1, 2, 2], 'float32', [4])], {
    mode: 'nearest',
    coordinate_transformation_mode: 'asymmetric',
    nearest_mode: 'floor',
  })
}
