import { openCase, required } from './cases.ts'
import type { ParityCase, ParitySubject } from './cases.ts'
import { compareFloats, compareIntegers } from './report.ts'
import type { ParityRow } from './report.ts'
import type { Checkpoint } from '../model/checkpoint.ts'
import type { AutoregressiveConfig } from '../model/config.ts'
import type { DecoderOptions, TokenChoice } from '../model/decoder-head.ts'
import { createRotaryTable } from '../model/rope.ts'
import type { Positions } from '../model/rope.ts'
import { startDecoderRun } from '../pipeline/decoder-run.ts'
import type { Draws } from '../pipeline/decoder-rows.ts'
import { openDecoder } from '../pipeline/decoder-session.ts'
import type { Decoder } from '../pipeline/decoder-session.ts'
import { planPositions } from '../pipeline/positions.ts'
import { openPromptRenderer, planGrids } from '../pipeline/prompt.ts'
import { openTokenizer } from '../pipeline/tokenizer.ts'
import { openVisualTokenWriter, upsample } from '../pipeline/visual-tokens.ts'

/** Steps per run while following a reference: more than one run, so that the carried cache is tested. */
const CHUNK_TOKENS = 100

/** Compares prompt, positions, logits and tokens of one `autoregressive` case. */
export async function compareAutoregressive(
  subject: ParitySubject,
  parityCase: ParityCase,
): Promise<ParityRow[]> {
  const { checkpoint, dir } = subject
  const { name } = parityCase
  const tensors = await openCase(dir, name)
  const grids = planGrids({
    width: required(parityCase, 'width'),
    height: required(parityCase, 'height'),
    cellPixels: checkpoint.cellPixels,
  })
  const text = await renderPrompt(checkpoint, parityCase)
  const ids = (await openTokenizer(checkpoint.dir)).encode(text)
  const positions = planPositions(ids.length, grids)
  const axes = [positions.temporal, positions.height, positions.width]
  const forced = await tensors.integers('forced_tokens')
  const greedy = await tensors.integers('greedy_tokens')
  const forcedRun = await follow(subject, { ids, positions, choice: 'forced', forced })
  const greedyRun = await follow(subject, {
    ids,
    positions,
    choice: 'likeliest',
    forced: greedy,
  })
  const large = Int32Array.from(forced.slice(required(parityCase, 'large_offset')))
  const integers = async (stage: string, actual: ArrayLike<number>, tensor: string) =>
    compareIntegers(name, stage, actual, await tensors.integers(tensor))
  const floats = async (stage: string, actual: ArrayLike<number>, tensor: string) =>
    compareFloats(name, stage, actual, await tensors.floats(tensor))
  const before = axes.flatMap((axis) => axis.slice(0, ids.length))
  const after = axes.flatMap((axis) => axis.slice(ids.length))
  return [
    compareIntegers(name, 'rendered prompt', [text === parityCase.rendered_prompt ? 1 : 0], [1]),
    await integers('input ids', ids, 'input_ids'),
    await integers('prompt positions', before, 'position_ids'),
    await integers('decode positions', after, 'decode_position_ids'),
    await floats('prompt logits', forcedRun.promptLogits, 'prefill_logits'),
    await floats('forced logits', forcedRun.logits, 'forced_logits'),
    await integers('greedy tokens', greedyRun.tokens.slice(0, greedy.length), 'greedy_tokens'),
    await floats(
      'greedy logits',
      greedyRun.logits.slice(0, greedy.length * checkpoint.autoregressive.visionVocabularySize),
      'greedy_logits',
    ),
    await integers('prior token ids', upsample(large, grids.large), 'prior_token_ids'),
  ]
}

/** Runs of one token each, the size that the product uses, and another that ends elsewhere. */
const CHUNK_SIZES = [1, 32, 100]

/**
 * Writes the tokens of one `autoregressive` case as the product does, sampling included, in chunks of several sizes:
 * all of them must give the same tokens. The reference draws from another generator, so it has none to compare with.
 */
export async function compareChunks(
  { checkpoint, options }: Pick<ParitySubject, 'checkpoint' | 'options'>,
  parityCase: ParityCase,
): Promise<ParityRow> {
  const request = {
    prompt: required(parityCase, 'prompt'),
    width: required(parityCase, 'width'),
    height: required(parityCase, 'height'),
    seed: 1,
  }
  const written: number[][] = []
  for (const chunkTokens of CHUNK_SIZES) {
    const writer = await openVisualTokenWriter(checkpoint, { ...options, chunkTokens })
    try {
      const visual = await writer.write(request, { onChunk: async () => {} })
      written.push([...visual.written])
    } finally {
      await writer.close()
    }
  }
  const [first = [], ...others] = written
  const stage = `sampled tokens in chunks of ${CHUNK_SIZES.join(', ')}`
  return compareIntegers(parityCase.name, stage, others.flat(), [...first, ...first])
}

/** Compares the ids of every text of a `tokenizer` case. */
export async function compareTokenizer(
  { checkpoint, dir }: ParitySubject,
  parityCase: ParityCase,
): Promise<ParityRow[]> {
  const tokenizer = await openTokenizer(checkpoint.dir)
  const tensors = await openCase(dir, parityCase.name)
  const rows: ParityRow[] = []
  for (const [index, text] of required(parityCase, 'texts').entries()) {
    const expected = await tensors.integers(`ids_${index}`)
    // An empty tensor cannot be stored, so the reference writes [-1] for an empty text.
    const wanted = text === '' && expected[0] === -1 ? [] : expected
    rows.push(compareIntegers(parityCase.name, `text ${index}`, tokenizer.encode(text), wanted))
  }
  return rows
}

async function renderPrompt(checkpoint: Checkpoint, parityCase: ParityCase): Promise<string> {
  const renderer = await openPromptRenderer(checkpoint.dir)
  const size = { width: required(parityCase, 'width'), height: required(parityCase, 'height') }
  const grids = planGrids({ ...size, cellPixels: checkpoint.cellPixels })
  return renderer.render(required(parityCase, 'prompt'), grids)
}

interface Followed {
  tokens: number[]
  promptLogits: Float32Array
  /** Rows: logits after feeding 0, 1, 2, ... tokens. */
  logits: Float32Array
}

interface Following {
  ids: number[]
  positions: Positions
  choice: TokenChoice
  forced: number[]
}

/** Runs the decoder over a prompt and then over given tokens. */
export async function follow(
  {
    checkpoint,
    options,
    quantised,
  }: Pick<ParitySubject, 'checkpoint' | 'options'> & Pick<DecoderOptions, 'quantised'>,
  input: Following,
): Promise<Followed> {
  const { autoregressive: config, generation } = checkpoint
  const model = {
    config,
    tensors: await checkpoint.tensors('vision_language_encoder'),
    compute: options.compute,
    choice: input.choice,
    sampling: { ...generation, codebookSize: config.codebookSize },
    withLogits: true,
    ...(quantised && { quantised }),
  }
  const decoder = await openDecoder(model, options)
  try {
    return await followIn(decoder, config, input)
  } finally {
    await decoder.close()
  }
}

async function followIn(
  decoder: Decoder,
  config: AutoregressiveConfig,
  input: Following,
): Promise<Followed> {
  const rotary = createRotaryTable(input.positions, config.rope)
  // One draw more than there are forced tokens, to see the logits after the last of them.
  const count = input.forced.length + 1
  const forced = BigInt64Array.from([...input.forced, 0], BigInt)
  const draws: Draws =
    input.choice === 'forced' ? { forced } : { uniforms: new Float32Array(count) }
  const run = startDecoderRun(decoder, { ids: input.ids, rotary, draws })
  const tokens: number[] = []
  const rows: number[] = []
  let promptLogits = new Float32Array(0)
  while (tokens.length < count) {
    const chunk = await run.write(Math.min(CHUNK_TOKENS, count - tokens.length))
    const prompt = floatsOf(chunk.promptLogits)
    if (tokens.length === 0) promptLogits = prompt
    rows.push(...prompt.slice(-config.visionVocabularySize), ...floatsOf(chunk.stepLogits))
    tokens.push(...chunk.tokens.map(Number))
  }
  return { tokens, promptLogits, logits: Float32Array.from(rows) }
}

function floatsOf(tensor: { data: unknown } | null): Float32Array<ArrayBuffer> {
  if (!(tensor?.data instanceof Float32Array)) throw new Error('the graph was built without logits')
  return new Float32Array(tensor.data)
}
