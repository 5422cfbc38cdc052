import { createGraph } from '../onnx/graph.ts'
import type { ComputeType, GraphBuilder, Value } from '../onnx/graph.ts'
import { attention, castTo, geluTanh, linear, reshape, rmsNorm } from '../onnx/layers.ts'
import type { TextEncoderConfig } from './config.ts'
import type { TensorIndex } from './safetensors.ts'

/**
 * The encoder of quoted text (T5 v1.1 blocks over bytes), one text at a time and so without a mask.
 *
 * Input `ids` int64 [length]; output `states` float32 [length, modelSize].
 *
 * @source T5EncoderModel of the reference; attention is not scaled, position enters as a bias by distance
 */
export function buildTextEncoder(
  config: TextEncoderConfig,
  tensors: TensorIndex,
  compute: ComputeType,
): Uint8Array {
  const g = createGraph({ name: 'text_encoder', tensors, compute })
  const { modelSize, normEpsilon } = config
  const ids = g.input('ids', 'int64', ['length'])
  const table = tensors.has('shared.weight') ? 'shared.weight' : 'encoder.embed_tokens.weight'
  const embedding = g.weight(table, { shape: [config.vocabularySize, modelSize] })
  const bias = addPositionBias(g, ids, config)
  let x = g.op('Gather', [embedding, ids])
  for (let layer = 0; layer < config.layerCount; layer += 1) {
    const block = `encoder.block.${layer}`
    const norm = (index: number, value: Value) =>
      rmsNorm(
        g,
        value,
        g.weight(`${block}.layer.${index}.layer_norm.weight`, { shape: [modelSize] }),
        normEpsilon,
      )
    const attended = addAttention(g, norm(0, x), bias, { config, block })
    x = g.op('Add', [x, attended])
    x = g.op('Add', [x, addFeedForward(g, norm(1, x), { config, block })])
  }
  const finalNorm = g.weight('encoder.final_layer_norm.weight', { shape: [modelSize] })
  const states = castTo(g, rmsNorm(g, x, finalNorm, normEpsilon), 'float32')
  g.output(states, 'states', 'float32', ['length', modelSize])
  return g.toBytes()
}

type Block = { config: TextEncoderConfig; block: string }

function addAttention(g: GraphBuilder, x: Value, bias: Value, { config, block }: Block): Value {
  const { modelSize, headCount, headDim } = config
  const inner = headCount * headDim
  const name = `${block}.layer.0.SelfAttention`
  const project = (part: string) =>
    reshape(
      g,
      linear(g, x, {
        name: `${name}.${part}`,
        inSize: modelSize,
        outSize: inner,
        bias: false,
        rank: 2,
      }),
      [1, -1, inner],
    )
  const output = attention(
    g,
    { q: project('q'), k: project('k'), v: project('v'), bias },
    { heads: headCount, scale: 1 },
  )
  return linear(g, reshape(g, output, [-1, inner]), {
    name: `${name}.o`,
    inSize: inner,
    outSize: modelSize,
    bias: false,
    rank: 2,
  })
}

function addFeedForward(g: GraphBuilder, x: Value, { config, block }: Block): Value {
  const { modelSize, feedForwardSize } = config
  const name = `${block}.layer.1.DenseReluDense`
  const widen = (part: string) =>
    linear(g, x, {
      name: `${name}.${part}`,
      inSize: modelSize,
      outSize: feedForwardSize,
      bias: false,
      rank: 2,
    })
  return linear(g, g.op('Mul', [geluTanh(g, widen('wi_0')), widen('wi_1')]), {
    name: `${name}.wo`,
    inSize: feedForwardSize,
    outSize: modelSize,
    bias: false,
    rank: 2,
  })
}

/** The bias of block 0, shared by all: [1, heads, length, length], by bucket of key position minus query position. */
function addPositionBias(g: GraphBuilder, ids: Value, config: TextEncoderConfig): Value {
  const { maxDistance, bucketCount, headCount } = config
  const buckets = Array.from({ length: 2 * maxDistance + 1 }, (_, index) =>
    toBucket(index - maxDistance, config),
  )
  const length = g.op('Squeeze', [g.op('Shape', [ids])])
  const positions = g.op('Range', [g.scalar(0, 'int64'), length, g.scalar(1, 'int64')])
  const distance = g.op('Sub', [reshape(g, positions, [1, -1]), reshape(g, positions, [-1, 1])])
  // Every distance from maxDistance on shares the last bucket, so the table can end there.
  const limited = g.op('Clip', [
    distance,
    g.scalar(-maxDistance, 'int64'),
    g.scalar(maxDistance, 'int64'),
  ])
  const index = g.op('Add', [limited, g.scalar(maxDistance, 'int64')])
  const bucket = g.op('Gather', [g.constant(buckets, 'int64', [buckets.length]), index])
  const table = g.weight('encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight', {
    shape: [bucketCount, headCount],
  })
  const bias = g.op('Transpose', [g.op('Gather', [table, bucket])], { perm: [2, 0, 1] })
  return g.op('Unsqueeze', [bias, g.constant([0], 'int64', [1])])
}

/**
 * The bucket of a distance (key minus query): exact near zero, logarithmic further out, apart by sign.
 */
export function toBucket(
  distance: number,
  { bucketCount, maxDistance }: Pick<TextEncoderConfig, 'bucketCount' | 'maxDistance'>,
): number {
  const half = bucketCount / 2
  const exact = half / 2
  const base = distance > 0 ? half : 0
  const steps = Math.abs(distance)
  if (steps < exact) return base + steps
  const far = (Math.log2(steps / exact) / Math.log2(maxDistance / exact)) * (half - exact)
  return base + Math.min(exact + Math.floor(far), half - 1)
}
