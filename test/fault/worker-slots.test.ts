import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { startEngine } from '../../gpu-worker/engine.ts'
import type { Engine, EngineHooks } from '../../gpu-worker/engine.ts'
import type { ImageRequest, Progress } from '../../gpu-worker/pipeline/image-request.ts'
import { openFloor, wrapEngine } from '../support/floor.ts'
import type { Floor } from '../support/floor.ts'
import { MODEL_DIR, until } from '../support/worker.ts'

// Several real processes start per test; a busy machine takes its time.
vi.setConfig({ testTimeout: 180_000 })

const SLOTS = 4
const FAST = { restSeconds: [0.01], retrySeconds: [0], pollSeconds: 1, progressIntervalMs: 20 }

let floor: Floor
let engine: Engine
beforeAll(async () => {
  floor = await openFloor()
  engine = await startEngine({ modelDir: MODEL_DIR, threads: 1, slots: SLOTS })
})
afterEach(() => floor.clear())
afterAll(async () => {
  await engine.close()
  await floor.close()
})

/** The engine of this file, which no worker closes, with something done around each picture. */
function around(
  generate: Engine['generate'] = (request, hooks) => engine.generate(request, hooks),
): Engine {
  return { ...wrapEngine(engine, generate), close: () => Promise.resolve() }
}

/** Tells of the progress of every picture. */
function watching(onProgress: (request: ImageRequest, progress: Progress) => void): Engine {
  return around((request, hooks) =>
    engine.generate(request, {
      ...hooks,
      onProgress(progress) {
        hooks?.onProgress?.(progress)
        onProgress(request, progress)
      },
    }),
  )
}

const SIZES = [256, 512, 320, 384]

/** Four jobs that differ in size and seed. */
async function newJobs(count = SLOTS): Promise<string[]> {
  const ids: string[] = []
  for (let place = 0; place < count; place += 1) {
    const side = SIZES[place % SIZES.length] ?? 256
    ids.push(await floor.newJob({ width: side, height: 256, seed: 100 + place, steps: 8 }))
  }
  return ids
}

async function sendAll(jobIds: readonly string[]): Promise<void> {
  for (const jobId of jobIds) await floor.queue.send(jobId)
}

const shaOf = async (jobId: string) => (await floor.outputsOf(jobId))[0]?.sha256

/** What each of these pictures is when it is made by itself. */
async function drawAlone(count = SLOTS): Promise<(string | undefined)[]> {
  const jobIds = await newJobs(count)
  const worker = await floor.startInside({ engine: around() })
  await sendAll(jobIds)
  for (const jobId of jobIds) await floor.untilState(jobId, 'succeeded', worker)
  await worker.stop()
  floor.queue.dropPolls()
  return Promise.all(jobIds.map(shaOf))
}

const countIn = async (state: string, jobIds: readonly string[]) => {
  const rows = await Promise.all(jobIds.map((jobId) => floor.jobRow(jobId)))
  return rows.filter((row) => row.state === state).length
}

/** A process with a job in every slot. */
async function startBusy() {
  const jobIds = await newJobs()
  const worker = await floor.startWorker({ SLOTS: String(SLOTS) })
  await sendAll(jobIds)
  await until(
    async () => (await countIn('running', jobIds)) === SLOTS,
    () => `all to run:\n${worker.output()}`,
  )
  return { jobIds, worker }
}

describe('a worker with four slots', () => {
  test('works on four jobs at once, never holds a fifth, and each picture is what it is alone', async () => {
    const alone = await drawAlone()
    const jobIds = await newJobs(7)
    let most = 0
    const held: number[] = []
    const busy = new Set<number>()
    const counted = around(async (request, hooks) => {
      busy.add(request.seed)
      most = Math.max(most, busy.size)
      held.push(floor.queue.counts().inflight)
      const result = await engine.generate(request, hooks)
      busy.delete(request.seed)
      return result
    })
    await sendAll(jobIds)
    const worker = await floor.startInside({ engine: counted, slots: SLOTS })
    for (const jobId of jobIds) await floor.untilState(jobId, 'succeeded', worker)
    expect(most).toBe(SLOTS)
    expect(Math.max(...held)).toBeLessThanOrEqual(SLOTS)
    expect(await Promise.all(jobIds.slice(0, SLOTS).map(shaOf))).toEqual(alone)
    for (const jobId of jobIds) await floor.expectDelivered(jobId, 1)
    await floor.untilQueueEmpty()
  })

  test('tells of each job for itself', async () => {
    const jobIds = await newJobs()
    const seen = new Map<string, Set<string>>(jobIds.map((jobId) => [jobId, new Set()]))
    const worker = await floor.startInside({ engine: around(), slots: SLOTS, times: FAST })
    await sendAll(jobIds)
    await until(
      async () => {
        const rows = await floor.db.sql<{ id: string; stage: string | null }[]>`
          select id, progress->>'stage' as stage from job where id = any(${jobIds})`
        for (const { id, stage } of rows) if (stage) seen.get(id)?.add(stage)
        return (await countIn('succeeded', jobIds)) === SLOTS
      },
      () => `all to be made:\n${worker.output()}`,
    )
    for (const stages of seen.values()) expect(stages.size).toBeGreaterThan(0)
  })

  test('lets go of one that is canceled while it is written, and the others are delivered', async () => {
    const alone = await drawAlone()
    const jobIds = await newJobs()
    const [, victim = ''] = jobIds
    let asked: Promise<unknown> | undefined
    const cancelSecond = watching(({ seed }, { stage, step }) => {
      if (seed !== 101 || stage !== 'tokens' || step < 32) return
      asked ??= floor.db.sql`
        update job set cancel_requested_at = now() where id = ${victim}`.execute()
    })
    const worker = await floor.startInside({ engine: cancelSecond, slots: SLOTS, times: FAST })
    await sendAll(jobIds)
    await floor.untilState(victim, 'canceled', worker)
    for (const [place, jobId] of jobIds.entries()) {
      if (jobId === victim) continue
      await floor.untilState(jobId, 'succeeded', worker)
      expect(await shaOf(jobId)).toBe(alone[place])
      await floor.expectDelivered(jobId, 1)
    }
    await floor.expectNothingCharged(victim)
    await floor.untilQueueEmpty()
  })

  test('fails a request that the model refuses, and no other', async () => {
    const jobIds = [...(await newJobs(3)), await floor.newJob({ width: 48 })]
    const worker = await floor.startInside({ engine: around(), slots: SLOTS })
    await sendAll(jobIds)
    for (const jobId of jobIds.slice(0, 3)) await floor.untilState(jobId, 'succeeded', worker)
    await floor.untilState(jobIds[3] ?? '', 'failed', worker)
    for (const jobId of jobIds.slice(0, 3)) await floor.expectDelivered(jobId, 1)
  })

  test('that loses the lease of one job gives that back and finishes the others', async () => {
    const jobIds = await newJobs()
    const refused = Promise.resolve('refuse' as const)
    let isRefused = false
    let isLost = false
    // The thread that beats takes its time to start: no picture is done before a lease was lost.
    const refuseOne = around(async (request, hooks) => {
      const signal = hooks?.signal
      signal?.addEventListener('abort', () => (isLost = true), { once: true })
      if (!isRefused) floor.queue.intercept('ChangeMessageVisibility', () => refused)
      isRefused = true
      const result = await engine.generate(request, hooks)
      await until(
        () => isLost,
        () => 'no beat was refused',
      )
      signal?.throwIfAborted()
      return result
    })
    const times = { ...FAST, beatSeconds: 0.05 }
    const worker = await floor.startInside({ engine: refuseOne, slots: SLOTS, times })
    await sendAll(jobIds)
    const lost = () => worker.log.filter((entry) => entry['isWorkerSick'] === true)
    await until(
      () => lost().length > 0,
      () => `a lease to be lost:\n${worker.output()}`,
    )
    for (const jobId of jobIds) await floor.untilState(jobId, 'succeeded', worker)
    const rows = await Promise.all(jobIds.map((jobId) => floor.jobRow(jobId)))
    expect(lost()).toHaveLength(1)
    expect(rows.map(({ failures }) => failures)).toEqual([0, 0, 0, 0])
    for (const jobId of jobIds) await floor.expectDelivered(jobId, 1)
  })

  test('gives all its jobs back at once when it is told to stop, and counts no failure', async () => {
    const { jobIds, worker } = await startBusy()
    worker.kill('SIGTERM')
    expect(await worker.ended).toEqual({ code: 0, signal: null })
    const rows = await Promise.all(jobIds.map((jobId) => floor.jobRow(jobId)))
    const open = jobIds.filter((_jobId, place) => rows[place]?.state === 'queued')
    expect(open.length).toBeGreaterThan(1)
    for (const { state, failures } of rows) {
      expect(['queued', 'succeeded']).toContain(state)
      expect(failures).toBe(0)
    }
    expect(floor.queue.counts()).toMatchObject({ ready: open.length, inflight: 0 })
    floor.queue.dropPolls()
    const next = await floor.startInside({ engine: around(), slots: SLOTS })
    for (const jobId of jobIds) {
      await floor.untilState(jobId, 'succeeded', next)
      await floor.expectDelivered(jobId, 1)
    }
  })

  test('that is killed with four jobs costs each one try, and another worker makes them', async () => {
    const { jobIds, worker } = await startBusy()
    worker.kill('SIGKILL')
    await worker.ended
    for (const jobId of jobIds) await floor.letLeaseRunOut(jobId)
    const next = await floor.startInside({ engine: around(), slots: SLOTS })
    for (const jobId of jobIds) {
      await floor.untilState(jobId, 'succeeded', next)
      await floor.expectDelivered(jobId, 1)
      const { failures } = await floor.jobRow(jobId)
      expect(failures).toBeLessThanOrEqual(1)
    }
  })
})

/** Kills the engine in the stage of tokens of one job, so many times. */
function killer(seed: number, times: number) {
  const seen: { seed: number; alone: boolean }[] = []
  let kills = 0
  const generate: Engine['generate'] = (request: ImageRequest, hooks: EngineHooks = {}) => {
    seen.push({ seed: request.seed, alone: hooks.alone === true })
    let isKilled = false
    return engine.generate(request, {
      ...hooks,
      onProgress(progress) {
        hooks.onProgress?.(progress)
        if (request.seed !== seed || isKilled || kills >= times) return
        if (progress.stage !== 'tokens' || progress.step < 16) return
        isKilled = true
        kills += 1
        if (engine.pid !== undefined) process.kill(engine.pid, 'SIGKILL')
      },
    })
  }
  return { engine: around(generate), seen }
}

describe('an engine that dies under four jobs', () => {
  test('costs each one try; they come back alone, and their pictures are what they would have been', async () => {
    const alone = await drawAlone()
    const jobIds = await newJobs()
    const dying = killer(103, 1)
    const worker = await floor.startInside({ engine: dying.engine, slots: SLOTS, times: FAST })
    await sendAll(jobIds)
    for (const jobId of jobIds) await floor.untilState(jobId, 'succeeded', worker)
    expect(await Promise.all(jobIds.map(shaOf))).toEqual(alone)
    const rows = await Promise.all(jobIds.map((jobId) => floor.jobRow(jobId)))
    expect(rows.filter(({ failures }) => failures === 1).length).toBeGreaterThan(1)
    for (const [place, { failures }] of rows.entries()) {
      expect(failures).toBeLessThanOrEqual(1)
      const last = dying.seen.findLast(({ seed }) => seed === 100 + place)
      expect(last?.alone).toBe(failures === 1)
      await floor.expectDelivered(jobIds[place] ?? '', 1)
    }
  })

  test('every time for the sake of one of them: that one fails, the others lose one try each', async () => {
    const jobIds = await newJobs()
    const [, , , culprit = ''] = jobIds
    const dying = killer(103, 3)
    const worker = await floor.startInside({ engine: dying.engine, slots: SLOTS, times: FAST })
    await sendAll(jobIds)
    await floor.untilState(culprit, 'failed', worker)
    expect(await floor.jobRow(culprit)).toMatchObject({ errorCode: 'worker_failed', attempt: 3 })
    for (const jobId of jobIds.slice(0, 3)) {
      await floor.untilState(jobId, 'succeeded', worker)
      expect((await floor.jobRow(jobId)).failures).toBeLessThanOrEqual(1)
      await floor.expectDelivered(jobId, 1)
    }
    await floor.expectNothingCharged(culprit)
  })
})
