import { once } from 'node:events'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import { createDrain, remainingMs } from '../../gpu-worker/drain.ts'
import type { Engine } from '../../gpu-worker/engine.ts'
import { drawFirstPicture } from '../../gpu-worker/first-picture.ts'
import { attendMachine } from '../../gpu-worker/interruption.ts'
import type { ScalingGroup } from '../../gpu-worker/scaling-group.ts'
import { openFloor, wrapEngine } from '../support/floor.ts'
import type { Floor, InsideWorker } from '../support/floor.ts'
import { REBALANCE_HINT, SPOT_NOTICE, startMetadataServer } from '../support/metadata-server.ts'
import { startScalingGroupServer } from '../support/scaling-group-server.ts'
import type { ScalingGroupServer } from '../support/scaling-group-server.ts'
import { until } from '../support/worker.ts'

// Several real processes start per test; a busy machine takes its time.
vi.setConfig({ testTimeout: 120_000 })

let floor: Floor
let metadata: Awaited<ReturnType<typeof startMetadataServer>>
const ends: (() => Promise<void>)[] = []
beforeAll(async () => {
  floor = await openFloor()
})
beforeEach(async () => {
  metadata = await startMetadataServer()
})
afterEach(async () => {
  await Promise.all(ends.splice(0).map((end) => end()))
  await metadata.close()
  await floor.clear()
})
afterAll(() => floor.close())

/** A scaling group that notes what it is told. */
function noteGroup() {
  const told: string[] = []
  const note = (what: string) => Promise.resolve(void told.push(what))
  const group: ScalingGroup = {
    completeLaunch: () => note('ready'),
    completeLeave: () => note('leave'),
    setProtected: (isProtected) => note(isProtected ? 'protect' : 'unprotect'),
  }
  return { group, told }
}

function attend(worker: InsideWorker, group: ScalingGroup | null = null) {
  const log: Record<string, unknown>[] = []
  const left = new Promise<void>((resolve) => {
    ends.push(
      attendMachine({
        worker,
        group,
        log: (entry) => void log.push(entry),
        leave: resolve,
        endpoint: metadata.url,
        pollMs: 20,
      }),
    )
  })
  return { left, log }
}

/** An engine whose first picture waits for a word of the test at a given point of its progress. */
async function slowEngine(progress: { stage: 'tokens' | 'denoise'; step: number; total: number }) {
  const engine = await floor.sharedEngine()
  const begun = Promise.withResolvers<void>()
  const go = Promise.withResolvers<void>()
  let count = 0
  const generate: Engine['generate'] = async (request, hooks) => {
    count += 1
    if (count > 1) return await engine.generate(request, hooks)
    hooks?.onProgress?.(progress)
    begun.resolve()
    const stop = hooks?.signal ? once(hooks.signal, 'abort') : new Promise(() => {})
    await Promise.race([go.promise, stop])
    return await engine.generate(request, hooks)
  }
  return { engine: wrapEngine(engine, generate), begun: begun.promise, go: go.resolve }
}

describe('a machine that gets a spot notice', () => {
  test('gives a job back at once that would take longer than there is left', async () => {
    // A picture of this size is planned with more than the notice leaves.
    const { engine, begun } = await slowEngine({ stage: 'tokens', step: 1, total: 100 })
    const worker = await floor.startInside({ engine })
    const { left } = attend(worker)
    const jobId = await floor.newJob({ width: 2048, height: 2048 })
    await floor.queue.send(jobId)
    await begun
    metadata.set('spot/instance-action', SPOT_NOTICE)
    await left
    expect(await floor.jobRow(jobId)).toMatchObject({ state: 'queued', failures: 0 })
    expect(floor.queue.counts()).toMatchObject({ ready: 1, inflight: 0 })
    await floor.expectNothingCharged(jobId)
  })

  test('finishes a job whose steps are nearly done, and takes no other', async () => {
    const { engine, begun, go } = await slowEngine({ stage: 'denoise', step: 19, total: 20 })
    const worker = await floor.startInside({ engine })
    const { left, log } = attend(worker)
    const jobId = await floor.newJob({ n: 1 })
    await floor.queue.send(jobId)
    await begun
    metadata.set('spot/instance-action', SPOT_NOTICE)
    await until(
      () => log.some(({ event }) => event === 'interruption'),
      () => 'the notice to be heard',
    )
    const other = await floor.newJob({ n: 1 })
    await floor.queue.send(other)
    go()
    await left
    await floor.expectDelivered(jobId, 1)
    expect(await floor.jobRow(other)).toMatchObject({ state: 'accepted', attempt: 0 })
    expect(floor.queue.counts()).toMatchObject({ ready: 1, inflight: 0 })
  })

  test('keeps the pictures that are stored, and another worker makes the rest', async () => {
    const engine = await floor.sharedEngine()
    let pictures = 0
    const noticeInSecond: Engine['generate'] = async (request, hooks) => {
      pictures += 1
      if (pictures !== 2) return await engine.generate(request, hooks)
      metadata.set('spot/instance-action', SPOT_NOTICE)
      // The reading of the layout of a large picture, as far as the worker can tell.
      if (hooks?.signal) await once(hooks.signal, 'abort')
      return await engine.generate(request, hooks)
    }
    const worker = await floor.startInside({ engine: wrapEngine(engine, noticeInSecond) })
    // Large by its job, so that the rest does not fit; drawn small, so that the test does.
    const huge = new Proxy(worker, {})
    const { left } = attend({ ...huge, leave: () => worker.leave(1) })
    const jobId = await floor.newJob({ n: 3 })
    await floor.queue.send(jobId)
    await left
    expect(await floor.outputsOf(jobId)).toHaveLength(1)
    const second = await floor.startInside()
    await floor.untilState(jobId, 'succeeded', second)
    await floor.expectDelivered(jobId, 3)
  })

  test('a real worker process leaves with the code that tells its supervisor not to start it again', async () => {
    metadata.set('instance-id', 'i-0123456789abcdef0')
    const worker = await floor.startWorker({ IMDS: metadata.url })
    expect(worker.log.find(({ event }) => event === 'first_picture')).toBeDefined()
    metadata.set('spot/instance-action', SPOT_NOTICE)
    expect(await worker.ended).toEqual({ code: 75, signal: null })
    expect(metadata.refused()).toBe(0)
  })
})

describe('a machine that is chosen by its scaling group', () => {
  test('finishes, lets the group know, and only then goes', async () => {
    const { engine, begun, go } = await slowEngine({ stage: 'tokens', step: 1, total: 100 })
    const { group, told } = noteGroup()
    const worker = await floor.startInside({ engine })
    const { left, log } = attend(worker, group)
    const jobId = await floor.newJob({ n: 1 })
    await floor.queue.send(jobId)
    await begun
    metadata.set('autoscaling/target-lifecycle-state', 'Terminated')
    await until(
      () => log.some(({ event }) => event === 'interruption'),
      () => 'the choice to be heard',
    )
    expect(told).not.toContain('leave')
    go()
    await left
    expect(told.at(-1)).toBe('leave')
    await floor.expectDelivered(jobId, 1)
  })

  test('which is in service is not going', async () => {
    const worker = await floor.startInside()
    const { log } = attend(worker)
    metadata.set('autoscaling/target-lifecycle-state', 'InService')
    const jobId = await floor.newJob({ n: 1 })
    await floor.queue.send(jobId)
    await floor.untilState(jobId, 'succeeded', worker)
    expect(log).toEqual([])
  })
})

describe('a worker process in a scaling group', () => {
  const PLACE = { groupName: 'workers', instanceId: 'i-0123456789abcdef0' }
  let aws: ScalingGroupServer
  beforeEach(async () => {
    aws = await startScalingGroupServer(PLACE)
    metadata.set('instance-id', PLACE.instanceId)
  })
  afterEach(() => aws.close())

  const start = () =>
    floor.startWorker({
      IMDS: metadata.url,
      GROUP_NAME: PLACE.groupName,
      AUTO_SCALING_ENDPOINT: aws.url,
      AWS_ACCESS_KEY_ID: 'test',
      AWS_SECRET_ACCESS_KEY: 'test',
    })

  test('is in service once it has drawn, and its machine goes when it has left', async () => {
    aws.throttle(2)
    const worker = await start()
    await until(
      () => aws.instance.state === 'InService',
      () => `the machine to be in service:\n${worker.output()}`,
    )
    expect(worker.log.find(({ event }) => event === 'first_picture')).toBeDefined()

    aws.instance.state = 'Terminating:Wait'
    metadata.set('autoscaling/target-lifecycle-state', 'Terminated')
    expect(await worker.ended).toEqual({ code: 75, signal: null })
    expect(aws.instance.state).toBe('Terminating:Proceed')
    expect(aws.calls.filter((call) => call === 'CompleteLifecycleAction')).toHaveLength(2)
  })

  test('works all the same when the group has given its machine up', async () => {
    aws.instance.state = 'Terminated'
    const worker = await start()
    const jobId = await floor.newJob({ n: 1 })
    await floor.queue.send(jobId)
    await floor.untilState(jobId, 'succeeded', worker)
    expect(worker.output()).toContain('No active Lifecycle Action')
    await floor.expectDelivered(jobId, 1)
  })

  test('says so when it cannot learn which machine it is', async () => {
    metadata.remove('instance-id')
    const worker = await start()
    await until(
      () => worker.output().includes('instance_unknown'),
      () => `a word about it:\n${worker.output()}`,
    )
    expect(aws.calls).toEqual([])
  })
})

describe('a machine that is likely to be taken', () => {
  test('takes nothing more, and a notice that follows overtakes the hint', async () => {
    const { engine, begun } = await slowEngine({ stage: 'tokens', step: 1, total: 100 })
    const worker = await floor.startInside({ engine })
    const { left, log } = attend(worker)
    const jobId = await floor.newJob({ n: 1, width: 2048, height: 2048 })
    await floor.queue.send(jobId)
    await begun
    metadata.set('events/recommendations/rebalance', REBALANCE_HINT)
    await until(
      () => log.some(({ kind }) => kind === 'rebalance'),
      () => 'the hint to be heard',
    )
    expect(worker.busy()).toBe(1)
    metadata.forgetTokens()
    metadata.set('spot/instance-action', SPOT_NOTICE)
    await left
    expect(await floor.jobRow(jobId)).toMatchObject({ state: 'queued', failures: 0 })
  })
})

describe('the time that a picture still takes', () => {
  const picture = {
    startedAt: 0,
    pixels: 1024 * 1024,
    stage: 'tokens',
    stageAt: 0,
    step: 1,
    total: 9,
  }

  test('is by its own steps while it denoises, and by its size before', () => {
    expect(remainingMs(picture, 10_000)).toBe(54_000)
    const denoise = { ...picture, stage: 'denoise', stageAt: 20_000, step: 10, total: 50 }
    // 10 steps took 10 s.
    expect(remainingMs(denoise, 30_000)).toBe(40_000 + 5_000)
    expect(remainingMs({ ...picture, stage: 'decode' }, 99_000)).toBe(5_000)
  })
})

describe('a worker that has not drawn a picture', () => {
  test('is not ready: an engine on another provider than told, or one that fails, ends the start', async () => {
    const engine = await floor.sharedEngine()
    await expect(drawFirstPicture(engine, 'cuda')).rejects.toMatchObject({
      code: 'provider_unavailable',
    })
    const broken = wrapEngine(engine, () => Promise.reject(new Error('no kernel')))
    await expect(drawFirstPicture(broken, 'cpu')).rejects.toThrow('no kernel')
    expect(await drawFirstPicture(engine, 'cpu')).toBeGreaterThan(0)
  })
})

test('with nothing in hand leaving takes no time, and the poll that was open ends', async () => {
  const polls: AbortSignal[] = []
  const drain = createDrain({
    queue: {
      receive: ({ signal }) =>
        new Promise((_resolve, reject) => {
          polls.push(signal)
          signal.addEventListener('abort', () => reject(new Error('aborted')))
        }),
      extend: () => Promise.resolve(),
      remove: () => Promise.resolve(),
      close: () => {},
    },
    leases: { hold: () => expect.fail('nothing is held'), close: () => Promise.resolve() },
    engine: await floor.sharedEngine(),
  })
  const stop = new AbortController()
  const polled = drain.queue.receive({
    waitSeconds: 20,
    visibilitySeconds: 60,
    signal: stop.signal,
  })
  expect(await drain.leave(1_000)).toBe('done')
  expect(polls[0]?.aborted).toBe(true)
  stop.abort()
  expect(await polled).toBeNull()
  expect(polls).toHaveLength(1)
})
