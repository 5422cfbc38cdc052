import type { AutoregressiveConfig } from './config.ts'
import type { GraphBuilder, Value } from '../onnx/graph.ts'
import { END, castTo, linear, reshape, rmsNorm, silu, slice } from '../onnx/layers.ts'

/** The key and value cache of one layer: [batch, kv heads, length, head size]. */
export interface Cache {
  key: Value
  value: Value
}

/** Where the language model's tensors stand in the checkpoint. */
export const DECODER_PREFIX = 'model.language_model'

/**
 * One pass of all layers over S new tokens of every picture of a batch; hidden [batch, S, hidden size] before the final
 * norm. `lengths` int64 [batch] says how many tokens of its own a picture has in the cache, whose rows behind them are not
 * read; where they differ, S is 1. `cos` and `sin` float32 [batch, S, width / 2].
 */
export function addPass(
  g: GraphBuilder,
  config: AutoregressiveConfig,
  inputs: { ids: Value; cos: Value; sin: Value; lengths: Value; past: Cache[] },
): { hidden: Value; cache: Cache[] } {
  const table = g.weight(`${DECODER_PREFIX}.embed_tokens.weight`, {
    dtype: 'stored',
    shape: [config.vocabularySize, config.hiddenSize],
  })
  let hidden = castTo(g, g.op('Gather', [table, inputs.ids], { axis: 0 }), g.compute)
  const rotary = { cos: asHeads(g, inputs.cos), sin: asHeads(g, inputs.sin) }
  const totals = g.op('Add', [inputs.lengths, slice(g, g.op('Shape', [inputs.ids]), 0, 1, 2)])
  const lastIndexes = castTo(g, g.op('Sub', [totals, g.constant([1], 'int64', [1])]), 'int32')
  const longest = castTo(g, g.op('ReduceMax', [totals], { keepdims: 0 }), 'int32')
  const cache = inputs.past.map((past, layer) => {
    const name = `${DECODER_PREFIX}.layers.${layer}`
    const norm = (x: Value, part: string) =>
      rmsNorm(
        g,
        x,
        g.weight(`${name}.${part}.weight`, { shape: [config.hiddenSize] }),
        config.normEpsilon,
      )
    const attended = addAttention(g, config, {
      name: `${name}.self_attn`,
      x: norm(hidden, 'input_layernorm'),
      rotary,
      past,
      lastIndexes,
      longest,
    })
    hidden = g.op('Add', [hidden, norm(attended.out, 'post_self_attn_layernorm')])
    const expanded = addMlp(g, config, `${name}.mlp`, norm(hidden, 'post_attention_layernorm'))
    hidden = g.op('Add', [hidden, norm(expanded, 'post_mlp_layernorm')])
    return attended.cache
  })
  return { hidden, cache }
}

function addAttention(
  g: GraphBuilder,
  config: AutoregressiveConfig,
  input: {
    name: string
    x: Value
    rotary: { cos: Value; sin: Value }
    past: Cache
    lastIndexes: Value
    longest: Value
  },
): { out: Value; cache: Cache } {
  const { name, x, rotary, past } = input
  const { headCount, keyValueHeadCount, headDim, hiddenSize } = config
  const project = (part: string, heads: number) =>
    linear(g, x, {
      name: `${name}.${part}`,
      inSize: hiddenSize,
      outSize: heads * headDim,
      bias: config.attentionBias,
      rank: 3,
    })
  const q = rotateHeads(g, config, project('q_proj', headCount), headCount, rotary)
  const k = rotateHeads(g, config, project('k_proj', keyValueHeadCount), keyValueHeadCount, rotary)
  const v = project('v_proj', keyValueHeadCount)
  const [out, key, value] = g.ops(
    'GroupQueryAttention',
    [q, k, v, past.key, past.value, input.lastIndexes, input.longest],
    3,
    { num_heads: headCount, kv_num_heads: keyValueHeadCount },
    { domain: 'com.microsoft' },
  )
  if (!out || !key || !value) throw new Error('GroupQueryAttention has three outputs')
  const merged = linear(g, out, {
    name: `${name}.o_proj`,
    inSize: headCount * headDim,
    outSize: hiddenSize,
    bias: false,
    rank: 3,
  })
  return { out: merged, cache: { key, value } }
}

/** Rotates dimension i with i + width / 2 of every head, in float32, and leaves the rest of the head. */
function rotateHeads(
  g: GraphBuilder,
  config: AutoregressiveConfig,
  x: Value,
  heads: number,
  rotary: { cos: Value; sin: Value },
): Value {
  const half = config.rope.width / 2
  const split = castTo(g, reshape(g, x, [0, -1, heads, config.headDim]), 'float32')
  const a = slice(g, split, 3, 0, half)
  const b = slice(g, split, 3, half, 2 * half)
  const times = (value: Value, factor: Value) => g.op('Mul', [value, factor])
  const parts = [
    g.op('Sub', [times(a, rotary.cos), times(b, rotary.sin)]),
    g.op('Add', [times(b, rotary.cos), times(a, rotary.sin)]),
  ]
  if (2 * half < config.headDim) parts.push(slice(g, split, 3, 2 * half, END))
  const rotated = castTo(g, g.op('Concat', parts, { axis: 3 }), g.compute)
  return reshape(g, rotated, [0, -1, heads * config.headDim])
}

function addMlp(g: GraphBuilder, config: AutoregressiveConfig, name: string, x: Value): Value {
  const { hiddenSize, intermediateSize } = config
  const both = linear(g, x, {
    name: `${name}.gate_up_proj`,
    inSize: hiddenSize,
    outSize: 2 * intermediateSize,
    bias: false,
    rank: 3,
  })
  const gate = slice(g, both, 2, 0, intermediateSize)
  const up = slice(g, both, 2, intermediateSize, 2 * intermediateSize)
  return linear(g, g.op('Mul', [silu(g, gate), up]), {
    name: `${name}.down_proj`,
    inSize: intermediateSize,
    outSize: hiddenSize,
    bias: false,
    rank: 3,
  })
}

/** [batch, S, half] -> [batch, S, 1, half], to multiply every head alike. */
function asHeads(g: GraphBuilder, table: Value): Value {
  return g.op('Unsqueeze', [table, g.constant([2], 'int64', [1])])
}
