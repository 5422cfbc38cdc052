import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { startEngine } from '../../gpu-worker/engine.ts'
import type { Engine } from '../../gpu-worker/engine.ts'
import { CLAIM, openFloor, RECORD, SETTLE, wrapEngine } from '../support/floor.ts'
import type { Floor } from '../support/floor.ts'
import type { Moment } from '../support/wire.ts'
import { MODEL_DIR, until } from '../support/worker.ts'

// Several real processes start per test; a busy machine takes its time.
vi.setConfig({ testTimeout: 120_000 })

let floor: Floor
beforeAll(async () => {
  floor = await openFloor()
})
afterEach(() => floor.clear())
afterAll(() => floor.close())

describe('a worker killed at a named moment', () => {
  const moments: [name: string, moment: Moment, attempts: number][] = [
    ['before its claim reaches the database', { when: 'before', sql: CLAIM }, 1],
    ['after its claim', { when: 'after', sql: CLAIM }, 2],
    ['after storing the first picture', { when: 'before', sql: RECORD }, 2],
    ['after noting the first picture', { when: 'after', sql: RECORD }, 2],
    ['after storing the last picture', { when: 'before', sql: RECORD, nth: 2 }, 2],
    ['before it settles', { when: 'before', sql: SETTLE }, 2],
    ['after it settled', { when: 'after', sql: SETTLE }, 1],
  ]
  test.each(moments)(
    '%s leaves a job that is finished and charged once',
    async (_name, moment, attempts) => {
      const jobId = await floor.newJob({ n: 2 })
      const first = await floor.startTrapped()
      const trap = floor.wire.trap(moment)
      await floor.queue.send(jobId)
      await trap.reached
      const storedBefore = await floor.outputsOf(jobId)
      first.kill('SIGKILL')
      await first.ended
      await floor.letLeaseRunOut(jobId)
      let madeAgain = 0
      const engine = await floor.sharedEngine()
      const counting: Engine['generate'] = (request, hooks) => {
        madeAgain += 1
        return engine.generate(request, hooks)
      }
      const second = await floor.startInside({ engine: wrapEngine(engine, counting) })
      await floor.untilState(jobId, 'succeeded', second)
      await floor.untilQueueEmpty()
      await floor.expectDelivered(jobId, 2)
      expect(await floor.jobRow(jobId)).toMatchObject({ attempt: attempts, failures: attempts - 1 })
      // What was noted before the crash was not made again.
      expect(madeAgain).toBe(2 - storedBefore.length)
      expect((await floor.outputsOf(jobId)).slice(0, storedBefore.length)).toEqual(storedBefore)
    },
  )

  test('before it removes the message: the next one removes it and charges nothing', async () => {
    const jobId = await floor.newJob()
    const first = await floor.startWorker()
    const killed = new Promise<void>((resolve) => {
      floor.queue.intercept('DeleteMessage', async () => {
        first.kill('SIGKILL')
        await first.ended
        resolve()
        return 'refuse'
      })
    })
    await floor.queue.send(jobId)
    await killed
    expect(floor.queue.counts()).toMatchObject({ inflight: 1 })
    await floor.letLeaseRunOut(jobId)
    await floor.startInside()
    await floor.untilQueueEmpty()
    await floor.expectDelivered(jobId, 1)
    expect(await floor.jobRow(jobId)).toMatchObject({ state: 'succeeded', attempt: 1 })
  })
})

describe('a job that kills its workers', () => {
  test('ends as failed after three, its hold is released and nothing is charged', async () => {
    const jobId = await floor.newJob({ n: 2 })
    await floor.queue.send(jobId)
    for (let attempt = 1; attempt <= 3; attempt++) {
      const trap = floor.wire.trap({ when: 'before', sql: RECORD })
      const victim = await floor.startTrapped()
      await trap.reached
      expect(await floor.jobRow(jobId)).toMatchObject({ state: 'running', attempt })
      victim.kill('SIGKILL')
      await victim.ended
      await floor.letLeaseRunOut(jobId)
    }
    // The fourth delivery does not happen: the message is among the dead letters, whose reader ends the job.
    const last = await floor.startInside()
    await floor.untilState(jobId, 'failed', last)
    expect(await floor.jobRow(jobId)).toMatchObject({ errorCode: 'worker_failed', attempt: 3 })
    await floor.expectNothingCharged(jobId)
    await floor.untilLettersRead()
  })

  test.each([
    ['node', 'SIGKILL'],
    // What a fault in native code ends with.
    ['capi', 'SIGSEGV'],
  ] as const)(
    'whose engine on %s ends by %s is tried again after a pause, and the failure is counted',
    async (backend, end) => {
      const engine = await startEngine({ modelDir: MODEL_DIR, threads: 1, backend })
      let isKilled = false
      const killOnce: Engine['generate'] = (request, hooks) =>
        engine.generate(request, {
          ...hooks,
          onProgress() {
            if (!isKilled && engine.pid !== undefined) process.kill(engine.pid, end)
            isKilled = true
          },
        })
      const jobId = await floor.newJob({ n: 2 })
      const worker = await floor.startInside({ engine: wrapEngine(engine, killOnce) })
      await floor.queue.send(jobId)
      await floor.untilState(jobId, 'queued', worker)
      expect(await floor.jobRow(jobId)).toMatchObject({ failures: 1, errorCode: 'engine_crashed' })
      await until(
        () => worker.log.some(({ event }) => event === 'job_end'),
        () => `the attempt to end:\n${worker.output()}`,
      )
      expect(floor.queue.counts()).toMatchObject({ inflight: 1 })
      await floor.queue.expireVisibility()
      await floor.untilState(jobId, 'succeeded', worker)
      await floor.expectDelivered(jobId, 2)
    },
  )

  test('with a request that the model refuses ends at the first try', async () => {
    const jobId = await floor.newJob({ width: 48 })
    const worker = await floor.startInside()
    await floor.queue.send(jobId)
    await floor.untilState(jobId, 'failed', worker)
    expect(await floor.jobRow(jobId)).toMatchObject({ attempt: 1, errorCode: 'invalid_request' })
    await floor.expectNothingCharged(jobId)
    await floor.untilQueueEmpty()
  })
})
