import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest'
import { claimJob, giveBackJob } from '../../db/job-claims.ts'
import { keepTokens, readTokens } from '../../db/job-tokens.ts'
import { startEngine } from '../../gpu-worker/engine.ts'
import type { Engine } from '../../gpu-worker/engine.ts'
import type { Progress } from '../../gpu-worker/pipeline/image-request.ts'
import { openFloor, wrapEngine } from '../support/floor.ts'
import type { Floor } from '../support/floor.ts'
import { MODEL_DIR, until } from '../support/worker.ts'

// Several real processes start per test; a busy machine takes its time.
vi.setConfig({ testTimeout: 120_000 })

let floor: Floor
beforeAll(async () => {
  floor = await openFloor()
})
afterEach(() => floor.clear())
afterAll(() => floor.close())

const SIZE = { width: 256, height: 256 }

async function tokensOf(jobId: string): Promise<number> {
  const [row] = await floor.db.sql<{ count: number }[]>`
    select count(*)::int as count from job_tokens where job_id = ${jobId}`
  return row?.count ?? 0
}

/** The shared engine, and every report of progress that it makes. */
async function watchedEngine(): Promise<{ engine: Engine; seen: Progress[] }> {
  const engine = await floor.sharedEngine()
  const seen: Progress[] = []
  const generate: Engine['generate'] = (request, hooks) =>
    engine.generate(request, {
      ...hooks,
      onProgress(progress) {
        seen.push(progress)
        hooks?.onProgress?.(progress)
      },
    })
  return { engine: wrapEngine(engine, generate), seen }
}

const stagesOf = (seen: readonly Progress[]) => [...new Set(seen.map(({ stage }) => stage))]

/** What the store has of a job that nothing interrupts. */
async function drawUninterrupted(seed: number): Promise<string | undefined> {
  const { engine, seen } = await watchedEngine()
  const worker = await floor.startInside({ engine })
  const jobId = await floor.newJob({ ...SIZE, seed })
  await floor.queue.send(jobId)
  await floor.untilState(jobId, 'succeeded', worker)
  expect(stagesOf(seen)).toContain('tokens')
  await worker.stop()
  floor.queue.dropPolls()
  return (await floor.outputsOf(jobId))[0]?.sha256
}

/** An attempt of another worker after the first: it must not write tokens, and give the same picture. */
async function expectPaintedOnly(jobId: string, sha256: string | undefined): Promise<void> {
  const { engine, seen } = await watchedEngine()
  const second = await floor.startInside({ engine })
  await floor.untilState(jobId, 'succeeded', second)
  expect(stagesOf(seen)).toEqual(['glyph', 'denoise', 'decode', 'encode'])
  expect((await floor.outputsOf(jobId)).map((output) => output.sha256)).toEqual([sha256])
  await floor.expectDelivered(jobId, 1)
  expect(await tokensOf(jobId)).toBe(0)
}

test('a job whose worker is killed while it paints is painted again from the tokens it had', async () => {
  const sha256 = await drawUninterrupted(11)
  const jobId = await floor.newJob({ ...SIZE, seed: 11 })
  const first = await floor.startWorker()
  await floor.queue.send(jobId)
  await until(
    async () => (await tokensOf(jobId)) === 1,
    () => `the tokens to be kept:\n${first.output()}`,
  )
  expect((await floor.jobRow(jobId)).state).toBe('running')
  first.kill('SIGKILL')
  await first.ended
  expect(await floor.outputsOf(jobId)).toEqual([])
  await floor.letLeaseRunOut(jobId)
  await expectPaintedOnly(jobId, sha256)
  expect(await floor.jobRow(jobId)).toMatchObject({ attempt: 2, failures: 1 })
})

test('a job whose engine dies while it paints is painted again from the tokens it had', async () => {
  const sha256 = await drawUninterrupted(12)
  const engine = await startEngine({ modelDir: MODEL_DIR, threads: 1 })
  const killInDenoise: Engine['generate'] = (request, hooks) =>
    engine.generate(request, {
      ...hooks,
      onProgress({ stage }) {
        if (stage === 'denoise' && engine.pid !== undefined) process.kill(engine.pid, 'SIGKILL')
      },
    })
  const jobId = await floor.newJob({ ...SIZE, seed: 12 })
  const first = await floor.startInside({ engine: wrapEngine(engine, killInDenoise) })
  await floor.queue.send(jobId)
  await floor.untilState(jobId, 'queued', first)
  expect(await tokensOf(jobId)).toBe(1)
  await first.stop()
  floor.queue.dropPolls()
  await floor.queue.expireVisibility()
  await expectPaintedOnly(jobId, sha256)
})

test('tokens of other weights are written anew', async () => {
  const sha256 = await drawUninterrupted(13)
  const jobId = await floor.newJob({ ...SIZE, seed: 13 })
  await attemptAndGiveBack(jobId, 'other weights')
  const { engine, seen } = await watchedEngine()
  const worker = await floor.startInside({ engine })
  await floor.queue.send(jobId)
  await floor.untilState(jobId, 'succeeded', worker)
  expect(stagesOf(seen)).toContain('tokens')
  expect((await floor.outputsOf(jobId)).map((output) => output.sha256)).toEqual([sha256])
})

const CLAIM = { workerId: 'w', leaseSeconds: 60, maxFailedAttempts: 3 }
const TOKENS = Int32Array.of(0, 1, 16_383, 70_000)

async function attemptAndGiveBack(jobId: string, weightsHash: string): Promise<void> {
  const claim = await claimJob(floor.db, { jobId, ...CLAIM })
  if (claim.outcome !== 'claimed') throw new Error(claim.outcome)
  const { attempt } = claim.job
  const own = { jobId, attempt, idx: 0, weightsHash, tokens: TOKENS }
  expect(await keepTokens(floor.db, own)).toBe(true)
  await giveBackJob(floor.db, { jobId, attempt, countFailure: false })
}

test('an attempt that is over keeps no tokens, and every number comes back as it was', async () => {
  const jobId = await floor.newJob()
  await attemptAndGiveBack(jobId, 'w1')
  const late = { jobId, attempt: 1, idx: 0, weightsHash: 'w1', tokens: Int32Array.of(9) }
  expect(await keepTokens(floor.db, late)).toBe(false)
  await claimJob(floor.db, { jobId, ...CLAIM })
  expect(await keepTokens(floor.db, late)).toBe(false)
  const known = await readTokens(floor.db, { jobId, weightsHash: 'w1' })
  expect([...known.entries()]).toEqual([[0, TOKENS]])
  expect((await readTokens(floor.db, { jobId, weightsHash: 'w2' })).size).toBe(0)
  expect(await keepTokens(floor.db, { ...late, attempt: 2 })).toBe(true)
  expect((await readTokens(floor.db, { jobId, weightsHash: 'w1' })).get(0)).toEqual(late.tokens)
})
