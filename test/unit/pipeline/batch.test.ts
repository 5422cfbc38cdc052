import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { openCheckpoint } from '../../../gpu-worker/model/checkpoint.ts'
import { createRotaryTable } from '../../../gpu-worker/model/rope.ts'
import { createRow } from '../../../gpu-worker/pipeline/decoder-rows.ts'
import type { RowInput } from '../../../gpu-worker/pipeline/decoder-rows.ts'
import { openDecoder } from '../../../gpu-worker/pipeline/decoder-session.ts'
import type { Decoder } from '../../../gpu-worker/pipeline/decoder-session.ts'
import { planPositions } from '../../../gpu-worker/pipeline/positions.ts'
import { BACKENDS } from '../../../gpu-worker/pipeline/session.ts'
import { openTokenizer } from '../../../gpu-worker/pipeline/tokenizer.ts'
import { openVisualTokenWriter } from '../../../gpu-worker/pipeline/visual-tokens.ts'
import type {
  Layout,
  TokenRequest,
  VisualTokenWriter,
} from '../../../gpu-worker/pipeline/visual-tokens.ts'
import { createCheckpointCopies } from '../../support/checkpoints.ts'

const GOLDEN = 'test/fixtures/golden/checkpoint'
const checkpoint = await openCheckpoint(GOLDEN)
const config = checkpoint.autoregressive
const BATCH = 5
const SIDES = [64, 96, 128, 160]

/** Prompts of several lengths, sizes and seeds. */
function requestOf(seed: number): TokenRequest {
  const width = SIDES[seed % SIDES.length] ?? 64
  const height = SIDES[Math.floor(seed / SIDES.length) % SIDES.length] ?? 64
  return { prompt: `A sign '${'OPEN '.repeat(1 + (seed % 7))}'`, width, height, seed }
}

const alone = async (writer: VisualTokenWriter, request: TokenRequest) =>
  [...(await writer.write(request, { onChunk: async () => {} })).written].join()

interface Visit {
  request: TokenRequest
  /** The turn in which it comes. */
  from: number
  /** How many turns it stays; without, till it is written. */
  turns?: number
}

/** Lets layouts come and go as planned; what was written of each, by visit. */
async function writeTogether(writer: VisualTokenWriter, visits: readonly Visit[]) {
  const places = visits.map((visit) => ({ ...visit, layout: writer.plan(visit.request) }))
  const isOver = (turn: number, { from, turns, layout }: (typeof places)[number]) =>
    layout.written.length === layout.total || (turns !== undefined && turn >= from + turns)
  let most = 0
  const failures = new Map<Layout, Error>()
  for (let turn = 0; places.some((place) => !isOver(turn, place)); turn += 1) {
    const present = places.filter((place) => place.from <= turn && !isOver(turn, place))
    const layouts = present.map(({ layout }) => layout).filter((layout) => !failures.has(layout))
    most = Math.max(most, layouts.length)
    if (layouts.length === 0 && present.length > 0) break
    if (layouts.length === 0) continue
    for (const [layout, error] of await writer.advance(layouts)) failures.set(layout, error)
  }
  return { most, failures, written: places.map(({ layout }) => layout.written.join()) }
}

const SETTINGS = BACKENDS.flatMap((backend) => [1, 2].map((threads) => ({ backend, threads })))

describe.each(SETTINGS)('a batch on $threads threads of $backend', ({ threads, backend }) => {
  let writer: VisualTokenWriter
  beforeAll(async () => {
    const options = { compute: 'float32', threads, backend, batch: BATCH, chunkTokens: 16 } as const
    writer = await openVisualTokenWriter(checkpoint, options)
  })
  afterAll(() => writer.close())

  test('gives each picture the tokens that it has alone, whoever comes and goes beside it', async () => {
    const known = new Map<number, string>()
    const visit = fc.record({
      seed: fc.integer({ min: 1, max: 40 }),
      from: fc.integer({ min: 0, max: 12 }),
      turns: fc.option(fc.integer({ min: 1, max: 9 }), { nil: undefined }),
    })
    const visits = fc.array(visit, { minLength: 2, maxLength: BATCH })
    await fc.assert(
      fc.asyncProperty(visits, async (plan) => {
        const { written } = await writeTogether(
          writer,
          plan.map(({ seed, from, turns }) => ({
            request: requestOf(seed),
            from,
            ...(turns !== undefined && { turns }),
          })),
        )
        for (const [place, { seed, turns }] of plan.entries()) {
          const own = known.get(seed) ?? (await alone(writer, requestOf(seed)))
          known.set(seed, own)
          if (turns === undefined) expect(written[place]).toBe(own)
          else expect(own.startsWith(written[place] ?? '-')).toBe(true)
        }
      }),
      { numRuns: threads === 1 ? 12 : 4, seed: 20261125 },
    )
  }, 120_000)

  test('is really one run for all: five pictures are written side by side', async () => {
    const visits = [1, 2, 3, 4, 5].map((seed) => ({ request: requestOf(seed), from: 0 }))
    expect((await writeTogether(writer, visits)).most).toBe(BATCH)
  })
})

describe.each(BACKENDS)('a batch that is not filled up, on %s', (backend) => {
  let decoder: Decoder
  beforeAll(async () => {
    const model = {
      config,
      tensors: await checkpoint.tensors('vision_language_encoder'),
      compute: 'float32',
      choice: 'nucleus',
      sampling: { ...checkpoint.generation, codebookSize: config.codebookSize },
      withLogits: true,
    } as const
    decoder = await openDecoder(model, { threads: 2, backend })
  })
  afterAll(() => decoder.close())

  test('changes the logits of a picture by rounding alone: less than 5e-5 where they spread over 1', async () => {
    const inputs = [3, 11, 17, 24].map((length, index): RowInput => {
      const grids = { large: { rows: 4, columns: 4 + index }, preview: { rows: 3, columns: 3 } }
      const ids = Array.from({ length }, (_, place) => 200 + ((place * 31 + index * 17) % 90))
      const rotary = createRotaryTable(planPositions(length, grids), config.rope)
      return { ids, rotary, draws: { uniforms: new Float32Array(64).fill(0.5) } }
    })
    const logitsOf = async (together: readonly RowInput[]) => {
      const batch = decoder.createBatch(together.length)
      const rows = together.map(createRow)
      for (const row of rows) await batch.read(row, 1, rows)
      const { promptLogits } = await batch.write(rows, 1)
      return [...(promptLogits!.data as Float32Array)]
    }
    const each = []
    for (const input of inputs) each.push(...(await logitsOf([input])))
    const all = await logitsOf(inputs)
    const spread = Math.sqrt(each.reduce((sum, value) => sum + value ** 2, 0) / each.length)
    expect(spread).toBeGreaterThan(1)
    const differences = each.map((value, index) => Math.abs(value - all[index]!))
    expect(all).toHaveLength(each.length)
    expect(Math.max(...differences)).toBeLessThan(5e-5)
  })
})

test.each(BACKENDS)(
  'a picture whose numbers are not finite ends alone, and its neighbours are what they are without it: %s',
  async (backend) => {
    const copies = await createCheckpointCopies()
    try {
      const tokenizer = await openTokenizer(GOLDEN)
      const poison = 'Zebra'
      const own = new Set(tokenizer.encode(requestOf(3).prompt + requestOf(6).prompt))
      const row = tokenizer.encode(poison).find((id) => !own.has(id))
      const place = {
        folder: 'vision_language_encoder',
        tensor: 'model.language_model.embed_tokens.weight',
        row: row ?? -1,
      }
      const broken = await openCheckpoint(await copies.fillRow(GOLDEN, place, NaN))
      const options = { compute: 'float32', threads: 1, backend, batch: BATCH } as const
      const writer = await openVisualTokenWriter(broken, options)
      const expected = [await alone(writer, requestOf(3)), await alone(writer, requestOf(6))]
      const sick = { ...requestOf(4), prompt: `${requestOf(4).prompt} ${poison}${poison}` }
      const { written, failures } = await writeTogether(writer, [
        { request: requestOf(3), from: 0 },
        { request: sick, from: 1 },
        { request: requestOf(6), from: 0 },
      ])
      expect([written[0], written[2]]).toEqual(expected)
      expect([...failures.values()]).toMatchObject([
        { message: 'the model gave numbers that are not finite in stage tokens' },
      ])
      await writer.close()
    } finally {
      await copies.remove()
    }
  },
)
