import { setTimeout as wait } from 'node:timers/promises'
import type { JobRow } from '../db/jobs.ts'
import { createHealth } from './health.ts'
import type { LeaseKeeper } from './lease.ts'
import { requestFields, runJob } from './run-job.ts'
import type { JobDeps, JobEnd } from './run-job.ts'
import { createSlots } from './slots.ts'
import { readJobId } from './sqs.ts'
import type { Queue, QueueMessage } from './sqs.ts'
import { inSpan } from './tracing.ts'

export type Log = (entry: Record<string, unknown>) => void

export interface ConsumeDeps extends JobDeps {
  readonly queue: Queue
  readonly leases: LeaseKeeper
  /** Jobs that are worked on at once. */
  readonly slots: number
  readonly pollSeconds: number
  readonly visibilitySeconds: number
  /** Pause after a failure of this worker's own, by the number of them in a row; the last one repeats. */
  readonly restSeconds: readonly number[]
  readonly log: Log
  /** Told after each settled job, so that webhooks leave without waiting for the sweep. */
  readonly onSettled: () => void
}

/** While the queue is down: soon at first, then no more than a few calls per minute. */
const FIRST_BACKOFF_MS = 500
const MAX_BACKOFF_MS = 15_000

/**
 * Takes one message for each free slot and works on its job, until `stop` is aborted; the jobs under way are then given
 * back at once. One message is asked for at a time, so that none waits here while another worker is free, and so that the
 * queue's choice between tenants is made anew for every slot. After a failure of its own it rests before the next
 * message, longer from time to time, so that a sick worker does not eat the queue. Never throws: what fails is logged,
 * and the message comes back by itself.
 *
 * @returns `engine_broken` when no engine could be started several times in a row; the process should end then
 */
export async function consumeJobs(
  deps: ConsumeDeps,
  stop: AbortSignal,
): Promise<'stopped' | 'engine_broken'> {
  const health = createHealth(deps.restSeconds)
  const leaving = AbortSignal.any([stop, health.broken])
  const pause = (ms: number) => wait(ms, undefined, { signal: leaving }).catch(() => {})
  const slots = createSlots(deps.slots, leaving)
  let backoffMs = FIRST_BACKOFF_MS
  while (!leaving.aborted) {
    await slots.untilFree()
    await pause(health.restMs())
    if (leaving.aborted) break
    const message = await receive(deps, leaving)
    if (message === 'unreachable') {
      await pause(backoffMs)
      backoffMs = Math.min(backoffMs * 2, MAX_BACKOFF_MS)
      continue
    }
    backoffMs = FIRST_BACKOFF_MS
    if (message === null) continue
    const startedAt = performance.now()
    slots.take(handleMessage(deps, message, leaving).then((end) => health.note(end, startedAt)))
  }
  await slots.untilEmpty()
  return health.broken.aborted && !stop.aborted ? 'engine_broken' : 'stopped'
}

async function receive(
  deps: ConsumeDeps,
  stop: AbortSignal,
): Promise<QueueMessage | null | 'unreachable'> {
  try {
    return await deps.queue.receive({
      waitSeconds: deps.pollSeconds,
      visibilitySeconds: deps.visibilitySeconds,
      signal: stop,
    })
  } catch (error) {
    if (stop.aborted) return null
    deps.metrics?.queueFailure()
    deps.log({ level: 'warn', event: 'queue_unreachable', error: String(error) })
    return 'unreachable'
  }
}

/** @returns null when an error of this worker cut the job short */
async function handleMessage(
  deps: ConsumeDeps,
  message: QueueMessage,
  stop: AbortSignal,
): Promise<JobEnd | null> {
  const jobId = readJobId(message.body)
  if (jobId === null) {
    deps.log({ level: 'error', event: 'message_unreadable', message: message.id })
    const end = { outcome: 'gone' } as const
    await answerQueue(deps, message, end)
    return end
  }
  // Every delivery is an attempt of its own beside those before it, under what sent the message.
  return inSpan(
    'attempt',
    async (describe) => {
      describe({ 'glyphpress.job_id': jobId, 'glyphpress.worker_id': deps.workerId })
      const end = await work(deps, { jobId, receipt: message.receipt, stop })
      describe({ 'glyphpress.outcome': end?.outcome ?? 'interrupted' })
      deps.metrics?.jobEnd(end?.outcome ?? 'interrupted')
      if (end !== null) await answerQueue(deps, message, end)
      return end
    },
    { parent: message.traceparent ?? null },
  )
}

/** @returns null when an error of this worker cut the job short */
async function work(
  deps: ConsumeDeps,
  { jobId, receipt, stop }: { jobId: string; receipt: string; stop: AbortSignal },
): Promise<JobEnd | null> {
  const startedAt = performance.now()
  const lease = deps.leases.hold(receipt)
  /** By the id of the request that made it a job is found in the logs of all processes. */
  let about: Record<string, unknown> = { job: jobId }
  const onClaim = ({ requestId }: JobRow) => {
    about = { ...about, ...requestFields(requestId) }
  }
  let end: JobEnd
  try {
    end = await runJob(deps, jobId, { lease, stop, onClaim })
  } catch (error) {
    deps.log({ level: 'error', event: 'job_interrupted', ...about, error: String(error) })
    return null
  } finally {
    lease.release()
  }
  const durationMs = Math.round(performance.now() - startedAt)
  deps.log({ level: 'info', event: 'job_end', ...about, durationMs, ...end })
  if (end.outcome === 'settled') deps.onSettled()
  return end
}

/** What cannot be said to the queue now is said by the next delivery: it finds the job gone or free. */
async function answerQueue(deps: ConsumeDeps, message: QueueMessage, end: JobEnd): Promise<void> {
  try {
    switch (end.outcome) {
      case 'settled':
      case 'gone':
        await deps.queue.remove(message.receipt)
        return
      case 'busy':
      case 'given_back':
        await deps.queue.extend(message.receipt, end.againSeconds)
        return
      case 'superseded':
        return
    }
  } catch (error) {
    deps.log({ level: 'warn', event: 'queue_answer_failed', error: String(error) })
  }
}
