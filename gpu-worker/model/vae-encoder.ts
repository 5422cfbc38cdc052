import { createGraph } from '../onnx/graph.ts'
import type { GraphBuilder, Value } from '../onnx/graph.ts'
import { silu, slice } from '../onnx/layers.ts'
import type { VaeConfig } from './config.ts'
import type { TensorIndex } from './safetensors.ts'
import { refuseLayers } from './vae.ts'
import type { UnknownLayers } from './vae.ts'
import { addConv, addGroupNorm, addResnet } from './vae-layers.ts'

/**
 * Pixels to latents, for the condition images of an edit; in float32 like the way back.
 *
 * Input `image` float32 [1, 3, height, width] in -1..1, both sides multiples of the scale. Outputs, float32
 * [1, latentChannels, height / scale, width / scale]: `mean`, the centre of the encoder's distribution, and `latents`,
 * the same as the denoiser takes it.
 *
 * @source AutoencoderKL encoder of the reference; its variance is not used, so nothing is drawn
 */
export function buildVaeEncoder(config: VaeConfig, tensors: TensorIndex): Uint8Array {
  refuseLayers(tensors, UNKNOWN_LAYERS)
  const g = createGraph({ name: 'vae_encoder', tensors, compute: 'float32' })
  const { latentChannels, blockChannels, layersPerBlock, normGroups } = config
  let channels = blockChannels[0] ?? 0
  let x = g.input('image', 'float32', [1, config.outChannels, 'height', 'width'])
  x = addConv(g, x, {
    name: 'encoder.conv_in',
    from: config.outChannels,
    to: channels,
    kernel: 3,
  })
  const addNext = (name: string, to: number) => {
    x = addResnet(g, x, { name, from: channels, to, groups: normGroups })
    channels = to
  }
  blockChannels.forEach((width, block) => {
    for (let layer = 0; layer < layersPerBlock; layer += 1) {
      addNext(`encoder.down_blocks.${block}.resnets.${layer}`, width)
    }
    if (block === blockChannels.length - 1) return
    x = addDownsample(g, x, { name: `encoder.down_blocks.${block}.downsamplers.0.conv`, width })
  })
  addNext('encoder.mid_block.resnets.0', channels)
  addNext('encoder.mid_block.resnets.1', channels)
  x = addGroupNorm(g, x, { name: 'encoder.conv_norm_out', channels, groups: normGroups })
  const both = addConv(g, silu(g, x), {
    name: 'encoder.conv_out',
    from: channels,
    to: 2 * latentChannels,
    kernel: 3,
  })
  const mean = slice(g, both, 1, 0, latentChannels)
  const perChannel = (values: readonly number[]) =>
    g.constant(values, 'float32', [1, latentChannels, 1, 1])
  const centred = g.op('Sub', [mean, perChannel(config.latentsMean)])
  const latents = g.op('Div', [centred, perChannel(config.latentsStd)])
  const shape = [1, latentChannels, 'rows', 'columns']
  g.output(mean, 'mean', 'float32', shape)
  g.output(latents, 'latents', 'float32', shape)
  return g.toBytes()
}

/** Layers that the graph leaves out; a file that has them was trained with them. */
const UNKNOWN_LAYERS: readonly UnknownLayers[] = [
  [/^encoder\.mid_block\.attentions\./, 'mid_block_add_attention'],
  [/^encoder\.down_blocks\.\d+\.attentions\./, 'down_block_types'],
  [/^quant_conv\./, 'use_quant_conv'],
]

/** Half the size: one row and column of zeros at the far ends, then every second place. */
function addDownsample(
  g: GraphBuilder,
  x: Value,
  { name, width }: { name: string; width: number },
): Value {
  const weight = g.weight(`${name}.weight`, { shape: [width, width, 3, 3] })
  const bias = g.weight(`${name}.bias`, { shape: [width] })
  return g.op('Conv', [x, weight, bias], {
    kernel_shape: [3, 3],
    strides: [2, 2],
    pads: [0, 0, 1, 1],
  })
}
