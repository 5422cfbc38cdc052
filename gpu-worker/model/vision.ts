import { createGraph } from '../onnx/graph.ts'
import type { ComputeType, GraphBuilder, Value } from '../onnx/graph.ts'
import { attention, castTo, geluErf, layerNorm, linear, reshape, slice } from '../onnx/layers.ts'
import { CODEBOOK_PREFIX, TOWER_PREFIX } from './editing.ts'
import type { VisionConfig } from './editing.ts'
import type { TensorIndex } from './safetensors.ts'

/** Below this a vector is divided by it instead of by its length. */
const LEAST_LENGTH = 1e-12

/**
 * Reads one condition image as visual codes: a vision transformer over patches, then the nearest entry of the codebook.
 *
 * Inputs: `patches` float32 [cells, 3 * patch^2] (channel, row, column inside a patch), row-major over the grid;
 * `corners` int64 [4, cells] and `shares` float32 [4, cells]: which four learned positions surround a cell, and how
 * much of each it takes.
 * Outputs: `codes` int64 [cells], in [0, codebook size); `features` float32 [cells, hidden size], what the codes are
 * chosen by; `magnitude` float32 [], the sum of their absolute values, not finite when one of them is not.
 *
 * Codes are chosen in float32 whatever the compute type: coarser distances make ties.
 *
 * @source vision model and vector quantizer of the reference; there is no norm after the last block
 */
export function buildVisionTower(
  config: VisionConfig,
  tensors: TensorIndex,
  compute: ComputeType,
): Uint8Array {
  const g = createGraph({ name: 'vision', tensors, compute })
  const { hiddenSize, patchSize, normEpsilon } = config
  const patchWidth = 3 * patchSize ** 2
  const patches = castTo(g, g.input('patches', 'float32', ['cells', patchWidth]), compute)
  // A convolution whose stride is its size is a product with each patch.
  const name = `${TOWER_PREFIX}.patch_embed.proj`
  const kernel = g.weight(`${name}.weight`, { shape: [hiddenSize, 3, patchSize, patchSize] })
  const bias = g.weight(`${name}.bias`, { shape: [hiddenSize] })
  const weight = reshape(g, kernel, [hiddenSize, patchWidth])
  const embedded = g.op('Gemm', [patches, weight, bias], { transB: 1 })
  let x = g.op('Add', [embedded, castTo(g, addPositions(g, config), compute)])
  for (let layer = 0; layer < config.layerCount; layer += 1) {
    const block = `${TOWER_PREFIX}.blocks.${layer}`
    const norm = (value: Value, part: string) =>
      layerNorm(g, value, { name: `${block}.${part}`, size: hiddenSize, epsilon: normEpsilon })
    x = g.op('Add', [x, addAttention(g, norm(x, 'norm1'), config, `${block}.attn`)])
    x = g.op('Add', [x, addMlp(g, norm(x, 'norm2'), config, `${block}.mlp`)])
  }
  const features = castTo(g, x, 'float32')
  g.output(addCodes(g, features, config), 'codes', 'int64', ['cells'])
  g.output(features, 'features', 'float32', ['cells', hiddenSize])
  g.output(g.op('ReduceL1', [features], { keepdims: 0 }), 'magnitude', 'float32', [])
  return g.toBytes()
}

/** The learned table, sampled at every cell in float32. */
function addPositions(g: GraphBuilder, { hiddenSize, positionSide }: VisionConfig): Value {
  const corners = g.input('corners', 'int64', [4, 'cells'])
  const shares = g.input('shares', 'float32', [4, 'cells'])
  const table = g.weight(`${TOWER_PREFIX}.embeddings.position_embedding.weight`, {
    dtype: 'stored',
    shape: [positionSide ** 2, hiddenSize],
  })
  const rows = castTo(g, g.op('Gather', [table, corners], { axis: 0 }), 'float32')
  const factors = g.op('Unsqueeze', [shares, g.constant([2], 'int64', [1])])
  const weighted = g.op('Mul', [rows, factors])
  return g.op('ReduceSum', [weighted, g.constant([0], 'int64', [1])], { keepdims: 0 })
}

/** Every cell of the image sees every other; queries, keys and values come out of one matrix. */
function addAttention(g: GraphBuilder, x: Value, config: VisionConfig, name: string): Value {
  const { hiddenSize, headCount } = config
  const size = { inSize: hiddenSize, bias: true, rank: 2 }
  const joined = linear(g, x, { name: `${name}.qkv`, outSize: 3 * hiddenSize, ...size })
  const part = (index: number) =>
    reshape(g, slice(g, joined, 1, index * hiddenSize, (index + 1) * hiddenSize), [
      1,
      -1,
      hiddenSize,
    ])
  const output = attention(
    g,
    { q: part(0), k: part(1), v: part(2) },
    { heads: headCount, scale: (hiddenSize / headCount) ** -0.5 },
  )
  const flat = reshape(g, output, [-1, hiddenSize])
  return linear(g, flat, { name: `${name}.proj`, outSize: hiddenSize, ...size })
}

function addMlp(g: GraphBuilder, x: Value, config: VisionConfig, name: string): Value {
  const { hiddenSize, intermediateSize } = config
  const wide = linear(g, x, {
    name: `${name}.fc1`,
    inSize: hiddenSize,
    outSize: intermediateSize,
    bias: true,
    rank: 2,
  })
  return linear(g, geluErf(g, wide), {
    name: `${name}.fc2`,
    inSize: intermediateSize,
    outSize: hiddenSize,
    bias: true,
    rank: 2,
  })
}

/** The codebook entry in whose direction each projected cell points; the first of equal ones. */
function addCodes(g: GraphBuilder, features: Value, config: VisionConfig): Value {
  const { hiddenSize, codeSize, codebookSize } = config
  const float32 = (part: string, shape: readonly number[]) =>
    g.weight(`${CODEBOOK_PREFIX}.${part}`, { dtype: 'float32', shape })
  const kernel = float32('quant_conv.weight', [codeSize, hiddenSize, 1, 1])
  const weight = reshape(g, kernel, [codeSize, hiddenSize])
  const bias = float32('quant_conv.bias', [codeSize])
  const projected = g.op('Gemm', [features, weight, bias], { transB: 1 })
  const entries = float32('quantize.embedding.weight', [codebookSize, codeSize])
  const likeness = g.op('Gemm', [toUnit(g, projected), toUnit(g, entries)], { transB: 1 })
  return g.op('ArgMax', [likeness], { axis: 1, keepdims: 0 })
}

/** Every row divided by its length. */
function toUnit(g: GraphBuilder, rows: Value): Value {
  const length = g.op('ReduceL2', [rows, g.constant([1], 'int64', [1])], { keepdims: 1 })
  return g.op('Div', [rows, g.op('Max', [length, g.scalar(LEAST_LENGTH, 'float32')])])
}
