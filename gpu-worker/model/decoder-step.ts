import { addHead, cacheShape, chooseToken, drawAt, layerIndexes } from './decoder-head.ts'
import type { DecoderOptions } from './decoder-head.ts'
import { addPass } from './decoder-layers.ts'
import { createGraph } from '../onnx/graph.ts'
import { END, reshape, slice } from '../onnx/layers.ts'

/**
 * Builds the writer of visual tokens for a backend that keeps tensors where the graph runs: one pass over S new tokens of
 * each of B pictures, and the token that follows. The cache has a fixed capacity and is written in place: its inputs and
 * outputs are bound to the same memory, and nothing of it is copied from token to token.
 *
 * Inputs: `ids` int64 [B, S]; `lengths` int64 [B], tokens that each picture has in the cache, all alike where S is not 1;
 * `cos`, `sin` float32 [B, S, width / 2]; `uniforms` float32 [1, B] or `forced` int64 [1, B]; `past_key_i`,
 * `past_value_i` of the compute type [B, kv heads, C, head size].
 * Outputs: `tokens` int64 [1, B]; `key_i`, `value_i` like the inputs; from sampling also `mass` float32 [1, B], the
 * probability of the tokens each was drawn from; with logits also `logits` float32 [B, S, vocabulary].
 */
export function buildStepDecoder(options: DecoderOptions): Uint8Array {
  const { config, compute, choice } = options
  const g = createGraph({ name: 'visual_token', ...options })
  const ids = g.input('ids', 'int64', ['batch', 'prompt'])
  const lengths = g.input('lengths', 'int64', ['batch'])
  const cos = g.input('cos', 'float32', ['batch', 'prompt', config.rope.width / 2])
  const sin = g.input('sin', 'float32', ['batch', 'prompt', config.rope.width / 2])
  const draws =
    choice === 'forced'
      ? g.input('forced', 'int64', [1, 'batch'])
      : g.input('uniforms', 'float32', [1, 'batch'])
  const shape = cacheShape(config, 'capacity')
  const past = layerIndexes(config).map((layer) => ({
    key: g.input(`past_key_${layer}`, compute, shape),
    value: g.input(`past_value_${layer}`, compute, shape),
  }))
  const pass = addPass(g, config, { ids, cos, sin, lengths, past })
  for (const [layer, { key, value }] of pass.cache.entries()) {
    g.output(key, `key_${layer}`, compute, shape)
    g.output(value, `value_${layer}`, compute, shape)
  }
  const flat = (hidden: typeof ids) => reshape(g, hidden, [-1, config.hiddenSize])
  const logits = addHead(g, options, flat(slice(g, pass.hidden, 1, -1, END)))
  const { token, mass } = chooseToken(g, options, logits, drawAt(g, draws, g.scalar(0, 'int64')))
  const asRow = (value: typeof ids) => reshape(g, value, [1, -1])
  g.output(asRow(token), 'tokens', 'int64', [1, 'batch'])
  if (mass) g.output(asRow(mass), 'mass', 'float32', [1, 'batch'])
  if (options.withLogits) {
    const size = config.visionVocabularySize
    const all = addHead(g, options, flat(pass.hidden))
    const parts = [g.op('Shape', [ids]), g.constant([size], 'int64', [1])]
    const shaped = g.op('Reshape', [all, g.op('Concat', parts, { axis: 0 })])
    g.output(shaped, 'logits', 'float32', ['batch', 'prompt', size])
  }
  return g.toBytes()
}
