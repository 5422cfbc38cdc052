import { cp, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { EngineError } from '../../gpu-worker/engine.ts'
import type { Engine } from '../../gpu-worker/engine.ts'
import type { EngineErrorCode } from '../../gpu-worker/engine-error.ts'
import { createTextReader } from '../../gpu-worker/ocr/reader.ts'
import { runJob } from '../../gpu-worker/run-job.ts'
import { createFileStore } from '../../gpu-worker/store.ts'
import type { PictureStore } from '../../gpu-worker/store.ts'
import { WORKER_TIMES } from '../../gpu-worker/worker.ts'
import { openFloor, RECORD, SETTLE, wrapEngine } from '../support/floor.ts'
import type { Floor, InsideWorker } from '../support/floor.ts'
import { childrenOf, MODEL_DIR, until } from '../support/worker.ts'

vi.setConfig({ testTimeout: 120_000 })

let floor: Floor
beforeAll(async () => {
  floor = await openFloor()
})
afterEach(() => floor.clear())
afterAll(() => floor.close())

/** The store of the floor, whose puts fail so many times first. */
function failingStore(failures: number): PictureStore & { puts: () => number } {
  const store = createFileStore(floor.objectDir)
  let puts = 0
  return {
    ...store,
    puts: () => puts,
    put(picture, signal) {
      puts += 1
      if (puts <= failures) return Promise.reject(new Error('the disk is full'))
      return store.put(picture, signal)
    },
  }
}

/** The shared engine, whose first calls fail so. */
async function failingEngine(code: EngineErrorCode, failures: number): Promise<Engine> {
  const engine = await floor.sharedEngine()
  let calls = 0
  return wrapEngine(engine, (request, hooks) => {
    calls += 1
    if (calls <= failures) return Promise.reject(new EngineError(code, 'no luck'))
    return engine.generate(request, hooks)
  })
}

/** Sends what the dead letters' reader stages meanwhile, as the gateway's sweep does. */
async function untilState(jobId: string, state: string, worker: InsideWorker): Promise<void> {
  await until(
    async () => {
      await floor.sendDue()
      return (await floor.jobRow(jobId)).state === state
    },
    () => `${jobId} to be ${state}:\n${worker.output()}`,
  )
}

const count = (worker: InsideWorker, event: string) =>
  worker.log.filter((entry) => entry.event === event).length

const FAST = { restSeconds: [0.01], retrySeconds: [0], pollSeconds: 1 }

describe('a failure of the worker', () => {
  test('at storing costs the job none of its tries, and it is drawn when the store is well', async () => {
    const jobId = await floor.newJob()
    const store = failingStore(5)
    const worker = await floor.startInside({ store, times: FAST })
    await floor.queue.send(jobId)
    await untilState(jobId, 'succeeded', worker)
    expect(store.puts()).toBe(6)
    expect(await floor.jobRow(jobId)).toMatchObject({ attempt: 6, failures: 0 })
    await floor.expectDelivered(jobId, 1)
  })

  test('at storing ends with the job’s deadline, uncharged', async () => {
    const jobId = await floor.newJob()
    const worker = await floor.startInside({ store: failingStore(1_000), times: FAST })
    await floor.queue.send(jobId)
    await until(
      () => count(worker, 'worker_sick') > 0,
      () => `a failed put:\n${worker.output()}`,
    )
    await floor.db.sql`update job set deadline_at = now() where id = ${jobId}`
    await untilState(jobId, 'expired', worker)
    expect(await floor.jobRow(jobId)).toMatchObject({ errorCode: 'deadline_exceeded', failures: 0 })
    await floor.expectNothingCharged(jobId)
  })

  test('makes it rest before the next message, and hand the job to others at once', async () => {
    const jobId = await floor.newJob()
    const sick = await floor.startInside({
      store: failingStore(1_000),
      times: { ...FAST, restSeconds: [3_600] },
    })
    await floor.queue.send(jobId)
    await floor.untilState(jobId, 'queued', sick)
    await until(
      () => floor.queue.counts().ready === 1,
      () => `the message to be visible again:\n${sick.output()}`,
    )
    expect(count(sick, 'job_end')).toBe(1)
    const well = await floor.startInside()
    await floor.untilState(jobId, 'succeeded', well)
    // A sick worker still stops at once.
    await sick.stop()
  })

  test('that has no engine costs the job none of its tries and ends the worker after three', async () => {
    const jobId = await floor.newJob()
    const engine = await failingEngine('engine_start_failed', 1_000)
    const worker = await floor.startInside({ engine, times: FAST })
    await floor.queue.send(jobId)
    const broken = worker.broken.then(() => 'broken')
    await until(
      async () => {
        await floor.sendDue()
        return count(worker, 'worker_sick') === 3
      },
      () => `three failed starts:\n${worker.output()}`,
    )
    expect(await broken).toBe('broken')
    expect(await floor.jobRow(jobId)).toMatchObject({ state: 'queued', failures: 0, attempt: 3 })
    const heir = await floor.startInside()
    await untilState(jobId, 'succeeded', heir)
    await floor.expectDelivered(jobId, 1)
  })

  test('that has no engine is forgotten with the next picture', async () => {
    const worker = await floor.startInside({
      engine: await failingEngine('engine_start_failed', 2),
      times: FAST,
    })
    const jobIds = [await floor.newJob(), await floor.newJob()]
    for (const jobId of jobIds) await floor.queue.send(jobId)
    for (const jobId of jobIds) await untilState(jobId, 'succeeded', worker)
  })
})

test('a worker process whose engine cannot be started again ends, so that its supervisor starts another', async () => {
  const modelDir = await mkdtemp(join(tmpdir(), 'glyphpress-model-'))
  try {
    await cp(MODEL_DIR, modelDir, { recursive: true })
    const worker = await floor.startWorker({ MODEL_DIR: modelDir })
    await writeFile(join(modelDir, 'vae/config.json'), 'broken')
    for (const child of childrenOf(worker.pid)) process.kill(child, 'SIGKILL')
    // Noticed in the middle of a try it would cost that one, and the third delivery is the last.
    await until(
      () => childrenOf(worker.pid).length === 0,
      () => 'the engine to be gone',
    )
    const jobId = await floor.newJob()
    await floor.queue.send(jobId)
    expect(await worker.ended).toEqual({ code: 1, signal: null })
    expect(worker.log.map(({ event }) => event)).toContain('engine_broken')
    const { failures, state } = await floor.jobRow(jobId)
    expect(state).toBe('queued')
    expect(failures).toBe(0)
  } finally {
    await rm(modelDir, { recursive: true, force: true })
  }
})

describe('a picture that cannot be made', () => {
  test.each(['engine_failed', 'engine_crashed', 'engine_timeout'] as const)(
    'is tried three times (%s), then the job fails and nothing is charged',
    async (code) => {
      const jobId = await floor.newJob({ n: 2 })
      const engine = await failingEngine(code, 1_000)
      const worker = await floor.startInside({ engine, times: FAST })
      await floor.queue.send(jobId)
      await untilState(jobId, 'failed', worker)
      expect(await floor.jobRow(jobId)).toMatchObject({ attempt: 3, errorCode: 'worker_failed' })
      expect(await floor.objectsOf(jobId)).toEqual([])
      await floor.expectNothingCharged(jobId)
    },
  )

  test('after one that could is not charged, and that one is', async () => {
    const jobId = await floor.newJob({ n: 2 })
    const engine = await floor.sharedEngine()
    let calls = 0
    const onlyFirst = wrapEngine(engine, (request, hooks) => {
      calls += 1
      if (calls === 1) return engine.generate(request, hooks)
      return Promise.reject(new EngineError('engine_failed', 'latents are not finite'))
    })
    const worker = await floor.startInside({ engine: onlyFirst, times: FAST })
    await floor.queue.send(jobId)
    await untilState(jobId, 'succeeded', worker)
    expect(await floor.jobRow(jobId)).toMatchObject({ attempt: 3, errorCode: 'worker_failed' })
    await floor.expectDelivered(jobId, 1)
  })
})

describe('a database that goes away', () => {
  test.each([
    ['noting a picture', RECORD],
    ['settling', SETTLE],
  ])('while a worker is at %s costs no picture and no try', async (_name, sql) => {
    const engine = await floor.sharedEngine()
    let drawn = 0
    const counting = wrapEngine(engine, (request, hooks) => {
      drawn += 1
      return engine.generate(request, hooks)
    })
    const jobId = await floor.newJob()
    const worker = await floor.startInside({ engine: counting, isWired: true, times: FAST })
    const trap = floor.wire.trap({ when: 'before', sql })
    await floor.queue.send(jobId)
    await trap.reached
    await floor.wire.down()
    trap.release()
    await until(
      () => count(worker, 'database_away') >= 3,
      () => `the worker to notice:\n${worker.output()}`,
    )
    await floor.wire.up()
    await floor.untilState(jobId, 'succeeded', worker)
    expect(drawn).toBe(1)
    expect(await floor.jobRow(jobId)).toMatchObject({ attempt: 1, failures: 0 })
    await floor.expectDelivered(jobId, 1)
  })

  test('without a word, its connections open, is asked again over new ones before the lease is over', async () => {
    const jobId = await floor.newJob()
    const worker = await floor.startInside({ isWired: true, times: FAST })
    const trap = floor.wire.trap({ when: 'before', sql: RECORD })
    await floor.queue.send(jobId)
    await trap.reached
    floor.wire.silence()
    trap.release()
    await floor.untilState(jobId, 'succeeded', worker)
    expect(worker.output()).toContain('has not answered for')
    expect(await floor.jobRow(jobId)).toMatchObject({ attempt: 1, failures: 0 })
    await floor.expectDelivered(jobId, 1)
  })

  test('for longer than the lease while a worker draws costs no try', async () => {
    const engine = await floor.sharedEngine()
    let drawn = 0
    const worker = await floor.startInside({
      // The first drawing loses the database and goes on until it is told to stop. The next is left alone: the job is
      // back in the queue at once, and may be drawn again before a test that looks now and then has seen it there.
      engine: wrapEngine(engine, async (request, hooks) => {
        drawn += 1
        if (drawn > 1) return engine.generate(request, hooks)
        await floor.wire.down()
        await new Promise((resolve) => hooks?.signal?.addEventListener('abort', resolve))
        throw new EngineError('canceled', 'canceled')
      }),
      isWired: true,
      times: { ...FAST, leaseSeconds: 1, beatSeconds: 0.1, progressIntervalMs: 50 },
    })
    const jobId = await floor.newJob()
    await floor.queue.send(jobId)
    await until(
      () => count(worker, 'database_away') >= 2,
      () => `the worker to give up drawing:\n${worker.output()}`,
    )
    await floor.wire.up()
    await floor.untilState(jobId, 'succeeded', worker)
    expect(drawn).toBe(2)
    expect(await floor.jobRow(jobId)).toMatchObject({ attempt: 2, failures: 0 })
    await floor.expectDelivered(jobId, 1)
  })
})

describe('an attempt that takes too long', () => {
  /** One attempt whose message is lost to its deadline while it draws the picture of this index. */
  async function attemptUntil(jobId: string, slowIdx: number) {
    const engine = await floor.sharedEngine()
    const lease = new AbortController()
    let drawn = 0
    let renewals = 0
    const slow = wrapEngine(engine, (request, hooks) => {
      if (drawn === slowIdx) lease.abort('deadline')
      drawn += 1
      return engine.generate(request, hooks)
    })
    const end = await runJob(
      {
        db: floor.db,
        engine: slow,
        store: createFileStore(floor.objectDir),
        reader: createTextReader(),
        workerId: 'w',
        times: WORKER_TIMES,
        log: () => {},
      },
      jobId,
      {
        lease: { signal: lease.signal, renew: () => void (renewals += 1) },
        stop: new AbortController().signal,
      },
    )
    return { end, renewals }
  }

  test('is a failure of the job when it stored nothing', async () => {
    const jobId = await floor.newJob({ n: 3 })
    const { end } = await attemptUntil(jobId, 0)
    expect(end).toMatchObject({ outcome: 'given_back', errorCode: 'attempt_timeout' })
    expect(await floor.jobRow(jobId)).toMatchObject({ state: 'queued', failures: 1 })
  })

  test('is none when it stored a picture, which is kept', async () => {
    const jobId = await floor.newJob({ n: 3 })
    for (const stored of [1, 2]) {
      const { end } = await attemptUntil(jobId, 1)
      expect(end).toMatchObject({ outcome: 'given_back', errorCode: 'attempt_timeout' })
      expect(await floor.jobRow(jobId)).toMatchObject({ state: 'queued', failures: 0 })
      expect(await floor.outputsOf(jobId)).toHaveLength(stored)
    }
    expect((await attemptUntil(jobId, 1)).end).toMatchObject({ outcome: 'settled', delivered: 3 })
    await floor.expectDelivered(jobId, 3)
  })

  test('has its time anew with each stored picture', async () => {
    const jobId = await floor.newJob({ n: 4 })
    expect(await attemptUntil(jobId, 4)).toMatchObject({
      end: { outcome: 'settled', delivered: 4 },
      renewals: 4,
    })
  })
})

describe('a worker that is told to stop', () => {
  test('in the middle of an upload does not wait for it and counts no failure', async () => {
    const jobId = await floor.newJob()
    let hasBegun = () => {}
    const begun = new Promise<void>((resolve) => (hasBegun = resolve))
    const store: PictureStore = {
      ...createFileStore(floor.objectDir),
      put: (_picture, signal) =>
        new Promise((_resolve, reject) => {
          signal?.addEventListener('abort', () => reject(new Error('aborted')))
          hasBegun()
        }),
    }
    const worker = await floor.startInside({ store })
    await floor.queue.send(jobId)
    await begun
    await worker.stop()
    expect(await floor.jobRow(jobId)).toMatchObject({ state: 'queued', attempt: 1, failures: 0 })
    expect(floor.queue.counts()).toMatchObject({ ready: 1, inflight: 0 })
  })

  test('and has not yet heard that its job is canceled leaves it to the next, which draws nothing', async () => {
    const engine = await floor.sharedEngine()
    const jobId = await floor.newJob()
    const stops: Promise<void>[] = []
    const first: InsideWorker = await floor.startInside({
      engine: wrapEngine(engine, async (request, hooks) => {
        await floor.db.sql`update job set cancel_requested_at = now() where id = ${jobId}`
        stops.push(first.stop())
        return engine.generate(request, hooks)
      }),
    })
    await floor.queue.send(jobId)
    await floor.untilState(jobId, 'queued', first)
    await Promise.all(stops)
    let drawn = 0
    const second = await floor.startInside({
      engine: wrapEngine(engine, (request, hooks) => {
        drawn += 1
        return engine.generate(request, hooks)
      }),
    })
    await floor.untilState(jobId, 'canceled', second)
    expect(drawn).toBe(0)
    await floor.expectNothingCharged(jobId)
    await floor.untilQueueEmpty()
  })
})
