import { once } from 'node:events'
import type { Worker } from 'node:worker_threads'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { startLeaseKeeper } from '../../gpu-worker/lease.ts'
import type { Lease, LeaseKeeper } from '../../gpu-worker/lease.ts'
import type { LeaseTimes } from '../../gpu-worker/lease-thread.ts'
import { openQueue } from '../../gpu-worker/sqs.ts'
import type { Queue, QueueSettings } from '../../gpu-worker/sqs.ts'
import { startQueue } from '../support/queue.ts'
import type { TestQueue } from '../support/queue.ts'

const FAST: LeaseTimes = { visibilitySeconds: 30, beatSeconds: 0.05, attemptSeconds: 60 }

let server: TestQueue
let settings: QueueSettings
let queue: Queue
let keeper: LeaseKeeper | undefined

beforeEach(async () => {
  server = await startQueue()
  settings = {
    queueUrl: server.queueUrl,
    endpoint: server.env['SQS_ENDPOINT'] ?? '',
    region: 'us-east-1',
    credentials: { accessKeyId: 'test', secretAccessKey: 'test' },
  }
  queue = openQueue(settings)
})
afterEach(async () => {
  await keeper?.close()
  keeper = undefined
  queue.close()
  await server.close()
})

/** One lease keeper per test; a second call goes through the same one. */
async function receiveAndHold(times: Partial<LeaseTimes> = {}): Promise<Lease> {
  await server.send('job_1')
  const message = await queue.receive({
    waitSeconds: 0,
    visibilitySeconds: 1,
    signal: AbortSignal.timeout(5_000),
  })
  keeper ??= startLeaseKeeper({ queue: settings, times: { ...FAST, ...times } })
  return keeper.hold(message?.receipt ?? '')
}

/** Resolves when the queue has seen so many beats. */
async function seeBeats(count: number, answer: 'pass' | 'refuse' = 'pass'): Promise<void> {
  for (let index = 0; index < count; index++) {
    await new Promise<void>((seen) => {
      server.intercept('ChangeMessageVisibility', async () => {
        seen()
        return answer
      })
    })
  }
}

/** Waits for the next beat and keeps its answer back. */
async function holdBeat(): Promise<{ answer: (answer: 'pass' | 'refuse') => void }> {
  let answer = (_answer: 'pass' | 'refuse') => {}
  const given = new Promise<'pass' | 'refuse'>((resolve) => (answer = resolve))
  await new Promise<void>((seen) => {
    server.intercept('ChangeMessageVisibility', () => {
      seen()
      return given
    })
  })
  return { answer }
}

const ended = (lease: Lease) => once(lease.signal, 'abort', { signal: AbortSignal.timeout(10_000) })

test('beats go on while this thread is busy, and a beaten message stays hidden', async () => {
  const lease = await receiveAndHold()
  await seeBeats(1)
  // Longer than the message was hidden for when it was received.
  const untilMs = performance.now() + 1_100
  while (performance.now() < untilMs);
  expect(lease.signal.aborted).toBe(false)
  expect(server.counts()).toEqual({ ready: 0, inflight: 1, dead: 0 })
})

test('a receipt that the queue refuses loses the lease at the first answer', async () => {
  const lease = await receiveAndHold()
  await Promise.all([ended(lease), seeBeats(1, 'refuse')])
  expect(lease.signal.reason).toBe('lost')
})

test('a queue that cannot be reached any more loses the lease', async () => {
  const lease = await receiveAndHold()
  await seeBeats(1)
  // Cut connections are no answer about the receipt.
  await server.close()
  await ended(lease)
  expect(lease.signal.reason).toBe('lost')
  server = await startQueue()
})

test('an attempt that takes too long ends with the reason deadline', async () => {
  const lease = await receiveAndHold({ attemptSeconds: 0.1 })
  await ended(lease)
  expect(lease.signal.reason).toBe('deadline')
})

test('an attempt whose time starts anew goes on past it, and ends once nothing comes any more', async () => {
  const startedAt = performance.now()
  const lease = await receiveAndHold({ attemptSeconds: 1 })
  const renewing = setInterval(() => lease.renew(), 50)
  setTimeout(() => clearInterval(renewing), 2_500)
  await ended(lease)
  expect(lease.signal.reason).toBe('deadline')
  expect(performance.now() - startedAt).toBeGreaterThan(2_500)
})

test('a thread that dies loses the lease, and the next one is kept by another thread', async () => {
  const threads: Worker[] = []
  const onThread = (thread: Worker) => threads.push(thread)
  process.on('worker', onThread)
  try {
    const first = await receiveAndHold()
    await seeBeats(1)
    await Promise.all([ended(first), threads[0]?.terminate()])
    expect(first.signal.reason).toBe('lost')
    const second = await receiveAndHold()
    await seeBeats(2)
    expect(second.signal.aborted).toBe(false)
    expect(threads).toHaveLength(2)
  } finally {
    process.off('worker', onThread)
  }
})

test('a beat that failed for an earlier message does not count against the next', async () => {
  const first = await receiveAndHold()
  const late = await holdBeat()
  first.release()
  const second = await receiveAndHold()
  late.answer('refuse')
  // One that is not answered in time is one failed beat, and only the second in a row is one too many.
  const silent = await holdBeat()
  await seeBeats(1)
  silent.answer('pass')
  expect(second.signal.aborted).toBe(false)
})

test('a released lease is never lost, and the next one is kept by the same thread', async () => {
  const first = await receiveAndHold()
  first.release()
  first.release()
  const second = await receiveAndHold()
  await Promise.all([ended(second), seeBeats(1, 'refuse')])
  expect(first.signal.aborted).toBe(false)
})
