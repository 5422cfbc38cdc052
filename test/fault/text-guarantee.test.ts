import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { compareBooks } from '../../billing/reconcile/books.ts'
import { listJobReceipts } from '../../billing/receipt.ts'
import { claimJob, giveBackJob } from '../../db/job-claims.ts'
import { findOrgOfJob, markJobDeleted } from '../../db/jobs.ts'
import type { TextCheck, TextTerms } from '../../db/text-terms.ts'
import type { Engine } from '../../gpu-worker/engine.ts'
import { createTextReader } from '../../gpu-worker/ocr/reader.ts'
import type { TextReader } from '../../gpu-worker/ocr/reader.ts'
import { openRemoteEngine } from '../../gpu-worker/remote-engine.ts'
import { checkBooks } from '../support/books.ts'
import { openFloor, SETTLE, wrapEngine } from '../support/floor.ts'
import type { Floor } from '../support/floor.ts'
import type { ImageServer } from '../support/image-server.ts'
import { IMAGE_MICROS } from '../support/jobs.ts'
import { startTextServer } from '../support/text-server.ts'
import type { Speller } from '../support/text-server.ts'
import { until } from '../support/worker.ts'

vi.setConfig({ testTimeout: 120_000 })

let floor: Floor
let server: ImageServer
let engine: Engine
let reader: TextReader
/** How the model spells in this test. */
let spell: Speller = (text) => text
beforeAll(async () => {
  floor = await openFloor()
  server = await startTextServer((text, seed) => spell(text, seed))
  engine = await openRemoteEngine({ url: server.url })
  reader = createTextReader()
})
afterEach(async () => {
  spell = (text) => text
  await floor.clear()
  server.asked.length = 0
})
afterAll(async () => {
  await floor.close()
  await engine.close()
  reader.close()
  await server.close()
})

const SIZE = { width: 1024, height: 1024, seed: 7 }
const TERMS: TextTerms = {
  guarantee: 'report',
  threshold: 1,
  retries: 0,
  expected: ['GRAND OPENING'],
}
const PROMPT = "A poster with the title 'GRAND OPENING'"
const misspelled: Speller = (text) => text.replace('OPENING', 'OPENIMG')

interface Stored {
  idx: number
  seed: number
  check: TextCheck | null
  unbilled: string | null
}

async function outputsOf(jobId: string): Promise<Stored[]> {
  return await floor.db.sql<Stored[]>`
    select idx, seed::float8 as seed, text_check as "check", unbilled_reason as unbilled from job_output
     where job_id = ${jobId} order by idx`
}

async function billOf(jobId: string) {
  const [row] = await floor.db.sql<
    { state: string; reason: string; hold: string; captured: bigint }[]
  >`
    select j.state, j.billed_reason as reason, r.state as hold, r.captured_micros as captured
      from job j join reservation r on r.job_id = j.id where j.id = ${jobId}`
  return row
}

/** Runs one job to its end on one worker. */
async function run(
  terms: Partial<TextTerms>,
  options: {
    prompt?: string
    n?: number
    engine?: Engine
    reader?: TextReader
    deadlineSeconds?: number
  } = {},
): Promise<{ jobId: string; outputs: Stored[] }> {
  const { prompt = PROMPT, n = 1, deadlineSeconds = 900 } = options
  const textTerms = { ...TERMS, ...terms }
  const jobId = await floor.newJob({ ...SIZE, n, prompt, textTerms, deadlineSeconds })
  const shared = {
    ...wrapEngine(engine, (...call) => engine.generate(...call)),
    close: async () => {},
  }
  const worker = await floor.startInside({
    engine: options.engine ?? shared,
    reader: { ...(options.reader ?? reader), close: () => {} },
  })
  await floor.queue.send(jobId)
  await floor.untilState(jobId, 'succeeded', worker)
  return { jobId, outputs: await outputsOf(jobId) }
}

const GOOD_BOOKS = async () => {
  expect(await checkBooks(floor.db)).toEqual([])
  expect((await compareBooks(floor.db, { graceSeconds: 900 })).differences).toEqual([])
}

describe('report', () => {
  test('delivers, charges and says what was expected and read', async () => {
    spell = misspelled
    const { jobId, outputs } = await run({})
    expect(outputs[0]?.check).toMatchObject({
      status: 'checked',
      passed: false,
      word_accuracy: 0.5,
      ned: 0.928572,
      texts: [{ expected: 'GRAND OPENING', matched: false, missing: ['opening'] }],
      read: ['GRAND OPENIMG'],
      draws: 1,
      engine: 'pp-ocrv6-small',
    })
    expect(await billOf(jobId)).toMatchObject({ reason: 'delivered', captured: IMAGE_MICROS })
    await GOOD_BOOKS()
  })

  test('reads Spanish and Chinese, and tells what it reads where nothing is expected', async () => {
    const mixed = await run(
      { expected: ['¡Mañana, año nuevo!', '新年快乐'] },
      { prompt: '海报「新年快乐」 "¡Mañana, año nuevo!"' },
    )
    expect(mixed.outputs[0]?.check).toMatchObject({ passed: true, word_accuracy: 1, ned: 1 })
    const { outputs } = await run({ expected: [] })
    expect(outputs[0]?.check).toMatchObject({
      status: 'nothing_expected',
      passed: null,
      word_accuracy: null,
      read: ['GRAND OPENING'],
    })
  })
})

describe('refund', () => {
  test('delivers a picture that misses its texts and charges nothing, by every book', async () => {
    spell = misspelled
    const { jobId, outputs } = await run({ guarantee: 'refund' })
    expect(outputs).toMatchObject([{ idx: 0, unbilled: 'text_mismatch' }])
    expect(await billOf(jobId)).toEqual({
      state: 'succeeded',
      reason: 'text_mismatch',
      hold: 'released',
      captured: 0n,
    })
    const orgId = (await findOrgOfJob(floor.db, jobId)) ?? ''
    expect(await listJobReceipts(floor.db, { orgId, jobId })).toMatchObject([
      { index: 0, images: 1, billed: false, reason: 'text_mismatch', net: '0.000000', sku: null },
    ])
    const [event] = await floor.db
      .sql`select payload->'data' as data from webhook_event where subject_id = ${jobId}`
    expect(event?.['data']).toMatchObject({
      delivered: 1,
      billed: false,
      billed_reason: 'text_mismatch',
      text_passed: false,
    })
    await floor.expectNothingCharged(jobId)
    await GOOD_BOOKS()
  })

  test('charges a picture that shows them, and one above the threshold', async () => {
    const right = await run({ guarantee: 'refund' })
    expect(await billOf(right.jobId)).toMatchObject({ reason: 'delivered', captured: IMAGE_MICROS })
    spell = misspelled
    const half = await run({ guarantee: 'refund', threshold: 0.5 })
    expect(half.outputs).toMatchObject([
      { unbilled: null, check: { passed: true, word_accuracy: 0.5 } },
    ])
    expect(await billOf(half.jobId)).toMatchObject({ captured: IMAGE_MICROS })
  })

  test('charges of several pictures those that show them', async () => {
    spell = (text, seed) => (seed === SIZE.seed + 1 ? misspelled(text, seed) : text)
    const { jobId, outputs } = await run({ guarantee: 'refund' }, { n: 3 })
    expect(outputs.map(({ unbilled }) => unbilled)).toEqual([null, 'text_mismatch', null])
    expect(await billOf(jobId)).toEqual({
      state: 'succeeded',
      reason: 'partial',
      hold: 'captured',
      captured: 2n * IMAGE_MICROS,
    })
    await GOOD_BOOKS()
  })

  test('draws again first where retries are wished', async () => {
    spell = misspelled
    const { jobId, outputs } = await run({ guarantee: 'refund', retries: 1 })
    expect(outputs).toMatchObject([{ unbilled: 'text_mismatch', check: { draws: 2 } }])
    expect(server.asked).toHaveLength(2)
    await floor.expectNothingCharged(jobId)
  })
})

describe('retry', () => {
  test('draws with other seeds until the texts are there, and charges once', async () => {
    spell = (text, seed) => (seed >= SIZE.seed + 4 ? text : misspelled(text, seed))
    const { jobId, outputs } = await run({ guarantee: 'retry', retries: 3 }, { n: 2 })
    expect(outputs).toMatchObject([
      { seed: SIZE.seed + 4, check: { passed: true, draws: 3 } },
      { seed: SIZE.seed + 5, check: { passed: true, draws: 3 } },
    ])
    expect(new Set(server.asked.map(({ seed }) => seed)).size).toBe(6)
    await floor.expectDelivered(jobId, 2)
    await GOOD_BOOKS()
  })

  test('keeps the best of them when none is right, and charges it once', async () => {
    const spellings = ['GRXXD OPXXXNG', 'GRAND OPENIMG', 'GRAND OPXXXNG']
    spell = (_text, seed) => spellings[seed - SIZE.seed] ?? ''
    const { jobId, outputs } = await run({ guarantee: 'retry', retries: 2 })
    expect(outputs).toMatchObject([
      {
        seed: SIZE.seed + 1,
        unbilled: null,
        check: { passed: false, draws: 3, read: ['GRAND OPENIMG'] },
      },
    ])
    await floor.expectDelivered(jobId, 1)
  })

  test('ends in time for the deadline of the job', async () => {
    spell = misspelled
    const { outputs } = await run({ guarantee: 'retry', retries: 4 }, { deadlineSeconds: 55 })
    expect(outputs).toMatchObject([{ check: { draws: 1 } }])
  })

  test('keeps what it has when the engine fails at another drawing', async () => {
    spell = misspelled
    let calls = 0
    const failing = wrapEngine(engine, (request, hooks) => {
      calls += 1
      return calls > 1 ? Promise.reject(new Error('no luck')) : engine.generate(request, hooks)
    })
    const { jobId, outputs } = await run(
      { guarantee: 'retry', retries: 2 },
      { engine: { ...failing, close: async () => {} } },
    )
    expect(outputs).toMatchObject([{ check: { draws: 1, passed: false } }])
    await floor.expectDelivered(jobId, 1)
  })
})

describe('a reading that fails', () => {
  const deaf = (): TextReader => ({
    ...reader,
    read: () => Promise.resolve({ ok: false, error: 'ocr_timeout', durationMs: 30_000 }),
  })
  test.each([
    ['report', 'delivered', IMAGE_MICROS],
    ['retry', 'delivered', IMAGE_MICROS],
    ['refund', 'text_unchecked', 0n],
  ] as const)(
    'under %s says so, is drawn once, and ends as %s',
    async (guarantee, reason, captured) => {
      const { jobId, outputs } = await run(
        { guarantee, retries: guarantee === 'report' ? 0 : 2 },
        { reader: deaf() },
      )
      expect(outputs[0]?.check).toMatchObject({
        status: 'failed',
        error: 'ocr_timeout',
        passed: null,
        draws: 1,
      })
      expect(await billOf(jobId)).toMatchObject({ state: 'succeeded', reason, captured })
      await GOOD_BOOKS()
    },
  )
})

describe('a worker killed', () => {
  test('between reading and settling leaves a picture that is not drawn again and not charged', async () => {
    spell = misspelled
    const textTerms: TextTerms = { ...TERMS, guarantee: 'refund' }
    const jobId = await floor.newJob({ ...SIZE, prompt: PROMPT, textTerms })
    const first = await floor.startTrapped({ MODEL_DIR: '', ENGINE_URL: server.url })
    const trap = floor.wire.trap({ when: 'before', sql: SETTLE })
    await floor.queue.send(jobId)
    await trap.reached
    first.kill('SIGKILL')
    await first.ended
    await floor.letLeaseRunOut(jobId)
    const second = await floor.startWorker({ MODEL_DIR: '', ENGINE_URL: server.url })
    await floor.untilState(jobId, 'succeeded', second)
    expect(server.asked).toHaveLength(1)
    expect(await billOf(jobId)).toMatchObject({ reason: 'text_mismatch', captured: 0n })
    await floor.expectNothingCharged(jobId)
  })

  test('in the midst of another drawing leaves a job that another one draws and charges once', async () => {
    const hold = Promise.withResolvers<void>()
    const usual = server.instead.get('/v1/images/generations')
    spell = (text, seed) => (seed === SIZE.seed ? misspelled(text, seed) : text)
    server.instead.set('/v1/images/generations', (response, request) => {
      if (server.asked.length === 1) {
        server.asked.push({})
        hold.resolve()
      } else usual?.(response, request)
    })
    const textTerms: TextTerms = { ...TERMS, guarantee: 'retry', retries: 2 }
    const jobId = await floor.newJob({ ...SIZE, prompt: PROMPT, textTerms })
    const first = await floor.startWorker({ MODEL_DIR: '', ENGINE_URL: server.url })
    await floor.queue.send(jobId)
    await hold.promise
    first.kill('SIGKILL')
    await first.ended
    await floor.letLeaseRunOut(jobId)
    const second = await floor.startWorker({ MODEL_DIR: '', ENGINE_URL: server.url })
    await floor.untilState(jobId, 'succeeded', second)
    expect(await outputsOf(jobId)).toMatchObject([{ seed: SIZE.seed + 1, check: { draws: 2 } }])
    await until(
      async () => (await floor.jobRow(jobId)).attempt === 2,
      () => 'the second attempt',
    )
    await floor.expectDelivered(jobId, 1)
    if (usual) server.instead.set('/v1/images/generations', usual)
  })
})

test('a worker that loses the job in the midst of another drawing keeps and charges nothing', async () => {
  spell = (text, seed) => (seed === SIZE.seed ? misspelled(text, seed) : text)
  const textTerms: TextTerms = { ...TERMS, guarantee: 'retry', retries: 2 }
  const jobId = await floor.newJob({ ...SIZE, prompt: PROMPT, textTerms })
  const claim = { jobId, workerId: 'other', leaseSeconds: 60, maxFailedAttempts: 3 }
  let calls = 0
  const losing = wrapEngine(engine, async (request, hooks) => {
    calls += 1
    if (calls === 2) {
      await floor.db.sql`update job set lease_until = now() where id = ${jobId}`
      expect(await claimJob(floor.db, claim)).toMatchObject({ outcome: 'claimed' })
    }
    return engine.generate(request, hooks)
  })
  const first = await floor.startInside({ engine: { ...losing, close: async () => {} } })
  await floor.queue.send(jobId)
  await until(
    () => first.log.some(({ event, outcome }) => event === 'job_end' && outcome === 'superseded'),
    () => `the first worker to stand back:\n${first.output()}`,
  )
  expect(await outputsOf(jobId)).toEqual([])
  expect(await floor.objectsOf(jobId)).toEqual([])
  await first.stop()
  // A poll that nobody waits for any more would take the next message.
  floor.queue.dropPolls()
  await giveBackJob(floor.db, { jobId, attempt: 2, countFailure: false })
  const shared = wrapEngine(engine, (...call) => engine.generate(...call))
  const second = await floor.startInside({ engine: { ...shared, close: async () => {} } })
  await floor.queue.send(jobId)
  await floor.untilState(jobId, 'succeeded', second)
  await floor.expectDelivered(jobId, 1)
})

test('deleting a job forgets the words that were expected and read, and keeps the scores', async () => {
  const { jobId } = await run({ guarantee: 'refund' })
  const orgId = (await findOrgOfJob(floor.db, jobId)) ?? ''
  await markJobDeleted(floor.db, { orgId, jobId })
  const [row] = await floor.db.sql`
    select j.text_terms::text || o.text_check::text as kept from job j join job_output o on o.job_id = j.id
     where j.id = ${jobId}`
  expect(String(row?.['kept']).toLowerCase()).not.toMatch(/grand|opening/)
  expect((await outputsOf(jobId))[0]?.check).toMatchObject({
    word_accuracy: 1,
    read: [],
    texts: [],
  })
})
