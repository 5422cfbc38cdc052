import { once } from 'node:events'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import type { Engine } from '../../gpu-worker/engine.ts'
import { openFloor, RECORD, wrapEngine } from '../support/floor.ts'
import type { Floor } from '../support/floor.ts'
import { childrenOf, spawnScript, until } from '../support/worker.ts'

// Several real processes start per test; a busy machine takes its time.
vi.setConfig({ testTimeout: 120_000 })

let floor: Floor
beforeAll(async () => {
  floor = await openFloor()
})
afterEach(() => floor.clear())
afterAll(() => floor.close())

describe('a worker that is told to stop', () => {
  test('gives its job back at once, counts no failure and keeps what it made', async () => {
    const jobId = await floor.newJob({ n: 3 })
    const first = await floor.startTrapped()
    const trap = floor.wire.trap({ when: 'after', sql: RECORD })
    await floor.queue.send(jobId)
    await trap.reached
    first.kill('SIGTERM')
    await until(
      () => first.log.some(({ event }) => event === 'stopping'),
      () => `the signal to be heard:\n${first.output()}`,
    )
    trap.release()
    expect(await first.ended).toEqual({ code: 0, signal: null })
    expect(await floor.jobRow(jobId)).toMatchObject({ state: 'queued', attempt: 1, failures: 0 })
    expect(floor.queue.counts()).toMatchObject({ ready: 1, inflight: 0 })
    const kept = await floor.outputsOf(jobId)
    expect(kept).toHaveLength(1)
    floor.queue.dropPolls()
    const second = await floor.startInside()
    await floor.untilState(jobId, 'succeeded', second)
    expect((await floor.outputsOf(jobId)).slice(0, 1)).toEqual(kept)
    await floor.expectDelivered(jobId, 3)
  })

  test('in the middle of a picture does not wait for it', async () => {
    const engine = await floor.sharedEngine()
    const stops: Promise<void>[] = []
    const stopAtFirstStep: Engine['generate'] = (request, hooks) =>
      engine.generate(request, { ...hooks, onProgress: () => void stops.push(worker.stop()) })
    const worker = await floor.startInside({ engine: wrapEngine(engine, stopAtFirstStep) })
    const jobId = await floor.newJob({ width: 512, height: 512 })
    await floor.queue.send(jobId)
    await floor.untilState(jobId, 'queued', worker)
    await Promise.all(stops)
    expect(await floor.jobRow(jobId)).toMatchObject({ attempt: 1, failures: 0 })
    expect(await floor.outputsOf(jobId)).toEqual([])
    expect(floor.queue.counts()).toMatchObject({ ready: 1, inflight: 0 })
  })

  test('while it waits for work ends at once and leaves no process behind', async () => {
    const worker = await floor.startWorker()
    const children = childrenOf(worker.pid)
    expect(children.length).toBeGreaterThan(0)
    worker.kill('SIGINT')
    expect(await worker.ended).toEqual({ code: 0, signal: null })
    for (const child of children) expect(() => process.kill(child, 0)).toThrow('ESRCH')
  })
})

describe('a running job that is canceled', () => {
  test('keeps and charges what was delivered, and no more', async () => {
    const engine = await floor.sharedEngine()
    const jobId = await floor.newJob({ n: 5 })
    let pictures = 0
    const cancelInThird: Engine['generate'] = async (request, hooks) => {
      pictures += 1
      if (pictures < 3) return await engine.generate(request, hooks)
      await floor.db.sql`update job set cancel_requested_at = now() where id = ${jobId}`
      hooks?.onProgress?.({ stage: 'tokens', step: 1, total: 2 })
      if (hooks?.signal?.aborted === false) await once(hooks.signal, 'abort')
      return await engine.generate(request, hooks)
    }
    const worker = await floor.startInside({
      engine: wrapEngine(engine, cancelInThird),
      times: { progressIntervalMs: 20 },
    })
    await floor.queue.send(jobId)
    await floor.untilState(jobId, 'succeeded', worker)
    await floor.expectDelivered(jobId, 2)
    await floor.untilQueueEmpty()
  })

  test('before its first picture is canceled and costs nothing', async () => {
    const engine = await floor.sharedEngine()
    const jobId = await floor.newJob({ n: 2 })
    const cancelAtOnce: Engine['generate'] = async (request, hooks) => {
      await floor.db.sql`update job set cancel_requested_at = now() where id = ${jobId}`
      hooks?.onProgress?.({ stage: 'tokens', step: 1, total: 2 })
      if (hooks?.signal?.aborted === false) await once(hooks.signal, 'abort')
      return await engine.generate(request, hooks)
    }
    const worker = await floor.startInside({
      engine: wrapEngine(engine, cancelAtOnce),
      times: { progressIntervalMs: 20 },
    })
    await floor.queue.send(jobId)
    await floor.untilState(jobId, 'canceled', worker)
    await floor.expectNothingCharged(jobId)
    await floor.untilQueueEmpty()
  })
})

describe('a worker with a bad configuration', () => {
  test('names every bad variable at once and does not start', async () => {
    const worker = spawnScript('gpu-worker/main.ts', { env: { SQS_QUEUE_URL: 'nowhere' } })
    expect((await worker.ended).code).toBe(1)
    for (const name of ['DATABASE_URL', 'SQS_QUEUE_URL', 'MODEL_DIR', 'OBJECT_DIR']) {
      expect(worker.output()).toContain(name)
    }
  })
})
