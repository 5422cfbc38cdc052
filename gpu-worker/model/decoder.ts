import { addHead, cacheShape, chooseToken, drawAt, layerIndexes, pickAt } from './decoder-head.ts'
import type { Choice, DecoderOptions } from './decoder-head.ts'
import { addPass } from './decoder-layers.ts'
import type { Cache } from './decoder-layers.ts'
import { createGraph } from '../onnx/graph.ts'
import type { GraphBuilder, Subgraph, Value } from '../onnx/graph.ts'
import { END, castTo, reshape, slice } from '../onnx/layers.ts'

/**
 * Builds the writer of visual tokens: a pass over S new tokens of each of B pictures, then a Loop that feeds each chosen
 * token back, all in one run. The cache goes out and comes in, so a picture is written in several runs between
 * which progress is told, a cancel is seen, and pictures come and go.
 *
 * Inputs: `ids` int64 [B, S]; `lengths` int64 [B], tokens that each picture has in the cache, all alike where S is not 1;
 * `cos`, `sin` float32 [B, S + N - 1, width / 2] for the ids and the fed-back tokens; `steps` int64 [], N - 1; `uniforms`
 * float32 [N, B] or `forced` int64 [N, B]; `past_key_i`, `past_value_i` float32 [B, kv heads, P, head size], P (may be 0)
 * the most of `lengths`.
 * Outputs: `tokens` int64 [N, B]; `key_i`, `value_i` float32 with P + S + N - 1 rows, of which each picture has as many
 * fewer as it had before; from sampling also `mass` float32 [N, B], the probability of the tokens each was drawn from;
 * with logits also `prompt_logits` [B, S, vocabulary] and `step_logits` [N - 1, B, vocabulary].
 *
 * The cache is of the compute type inside and float32 at the border: the binding passes no bfloat16, and widening
 * and narrowing again keeps every bit.
 *
 * @source section order of the reference decoder: norms around both branches, rotary on the first dimensions
 */
export function buildDecoder(options: DecoderOptions): Uint8Array {
  const { config, compute } = options
  const g = createGraph({ name: 'visual_tokens', ...options })
  const ids = g.input('ids', 'int64', ['batch', 'prompt'])
  const lengths = g.input('lengths', 'int64', ['batch'])
  const cos = g.input('cos', 'float32', ['batch', 'rows', config.rope.width / 2])
  const sin = g.input('sin', 'float32', ['batch', 'rows', config.rope.width / 2])
  const steps = g.input('steps', 'int64', [])
  const draws =
    options.choice === 'forced'
      ? g.input('forced', 'int64', ['draws', 'batch'])
      : g.input('uniforms', 'float32', ['draws', 'batch'])
  const pastOf = (name: string) =>
    castTo(g, g.input(name, 'float32', cacheShape(config, 'past')), compute)
  const past = layerIndexes(config).map((layer) => ({
    key: pastOf(`past_key_${layer}`),
    value: pastOf(`past_value_${layer}`),
  }))
  const length = slice(g, g.op('Shape', [ids]), 0, 1, 2)
  const rowsOf = (table: Value) =>
    g.op('Slice', [table, g.constant([0], 'int64', [1]), length, g.constant([1], 'int64', [1])])
  const pass = addPass(g, config, { ids, cos: rowsOf(cos), sin: rowsOf(sin), lengths, past })
  const lastHidden = slice(g, pass.hidden, 1, -1, END)
  const firstLogits = addHead(g, options, reshape(g, lastHidden, [-1, config.hiddenSize]))
  const first = chooseToken(g, options, firstLogits, drawAt(g, draws, g.scalar(0, 'int64')))
  if (options.withLogits) {
    const flat = addHead(g, options, reshape(g, pass.hidden, [-1, config.hiddenSize]))
    const shape = g.op(
      'Concat',
      [g.op('Shape', [ids]), g.constant([config.visionVocabularySize], 'int64', [1])],
      { axis: 0 },
    )
    const shaped = g.op('Reshape', [flat, shape])
    g.output(shaped, 'prompt_logits', 'float32', ['batch', 'prompt', config.visionVocabularySize])
  }
  addLoop(g, options, { steps, draws, cos, sin, lengths, length, first, cache: pass.cache })
  return g.toBytes()
}

interface LoopStart {
  steps: Value
  draws: Value
  cos: Value
  sin: Value
  lengths: Value
  /** Of the prompt: S. */
  length: Value
  first: Choice
  cache: Cache[]
}

/** Feeds each chosen token back until all are written, and publishes tokens, cache, masses and logits. */
function addLoop(g: GraphBuilder, options: DecoderOptions, start: LoopStart): void {
  const { config, withLogits } = options
  const carried = start.cache.flatMap((cache) => [cache.key, cache.value])
  const hasMass = start.first.mass !== null
  const rowCount = 1 + (hasMass ? 1 : 0) + (withLogits ? 1 : 0)
  const results = g.ops(
    'Loop',
    [start.steps, null, start.first.token, ...carried],
    1 + carried.length + rowCount,
    { body: buildLoopBody(g, options, start) },
  )
  // The last token came out as a row too.
  const [, ...rest] = results
  const take = () => {
    const value = rest.shift()
    if (!value) throw new Error('the loop has too few outputs')
    return value
  }
  const publish = (value: Value, name: string) =>
    g.output(castTo(g, value, 'float32'), name, 'float32', cacheShape(config, 'length'))
  for (const layer of layerIndexes(config)) {
    publish(take(), `key_${layer}`)
    publish(take(), `value_${layer}`)
  }
  const asRow = (value: Value) => reshape(g, value, [1, -1])
  const tokens = g.op('Concat', [asRow(start.first.token), take()], { axis: 0 })
  g.output(tokens, 'tokens', 'int64', ['draws', 'batch'])
  if (start.first.mass) {
    const masses = g.op('Concat', [asRow(start.first.mass), take()], { axis: 0 })
    g.output(masses, 'mass', 'float32', ['draws', 'batch'])
  }
  if (withLogits) {
    g.output(take(), 'step_logits', 'float32', ['steps', 'batch', config.visionVocabularySize])
  }
}

/** One step: the token of the step before goes in, the next one comes out with the grown cache. */
function buildLoopBody(g: GraphBuilder, options: DecoderOptions, start: LoopStart): Subgraph {
  const { config, compute } = options
  const shape = cacheShape(config, 'length')
  return g.subgraph('write_token', (b) => {
    const step = b.input('step', 'int64', [])
    const goesOn = b.input('goes_on', 'bool', [])
    const ids = b.input('token', 'int64', ['batch', 1])
    const past = layerIndexes(config).map((layer) => ({
      key: b.input(`loop_key_${layer}`, compute, shape),
      value: b.input(`loop_value_${layer}`, compute, shape),
    }))
    const row = b.op('Add', [step, b.op('Squeeze', [start.length])])
    const rowOf = (table: Value) => pickAt(b, table, row, 1)
    const lengths = b.op('Add', [start.lengths, row])
    const rotary = { cos: rowOf(start.cos), sin: rowOf(start.sin) }
    const pass = addPass(b, config, { ids, ...rotary, lengths, past })
    const logits = addHead(b, options, reshape(b, pass.hidden, [-1, config.hiddenSize]))
    const next = b.op('Add', [step, b.scalar(1, 'int64')])
    const { token, mass } = chooseToken(b, options, logits, drawAt(b, start.draws, next))
    b.output(goesOn, 'goes_on_out', 'bool', [])
    b.output(token, 'token_out', 'int64', ['batch', 1])
    pass.cache.forEach((cache, layer) => {
      b.output(cache.key, `loop_key_out_${layer}`, compute, shape)
      b.output(cache.value, `loop_value_out_${layer}`, compute, shape)
    })
    b.output(reshape(b, token, [-1]), 'written', 'int64', ['batch'])
    if (mass) b.output(reshape(b, mass, [-1]), 'mass_of_step', 'float32', ['batch'])
    if (options.withLogits) {
      const size = config.visionVocabularySize
      b.output(logits, 'logits', 'float32', ['batch', size])
    }
  })
}
