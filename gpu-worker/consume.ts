import { setTimeout as wait } from 'node:timers/promises'
import type { LeaseKeeper } from './lease.ts'
import { runJob } from './run-job.ts'
import type { JobDeps, JobEnd } from './run-job.ts'
import { readJobId } from './sqs.ts'
import type { Queue, QueueMessage } from './sqs.ts'

export type Log = (entry: Record<string, unknown>) => void

export interface ConsumeDeps extends JobDeps {
  readonly queue: Queue
  readonly leases: LeaseKeeper
  readonly pollSeconds: number
  readonly visibilitySeconds: number
  readonly log: Log
  /** Told after each settled job, so that webhooks leave without waiting for the sweep. */
  readonly onSettled: () => void
}

/** While the queue is down: soon at first, then no more than a few calls per minute. */
const FIRST_BACKOFF_MS = 500
const MAX_BACKOFF_MS = 15_000

/**
 * Takes one message at a time and works on its job until `stop` is aborted; the job under way is then given
 * back at once. Never throws: what fails is logged, and the message comes back by itself.
 */
export async function consumeJobs(deps: ConsumeDeps, stop: AbortSignal): Promise<void> {
  let backoffMs = FIRST_BACKOFF_MS
  while (!stop.aborted) {
    try {
      const message = await deps.queue.receive({
        waitSeconds: deps.pollSeconds,
        visibilitySeconds: deps.visibilitySeconds,
        signal: stop,
      })
      backoffMs = FIRST_BACKOFF_MS
      if (message) await handleMessage(deps, message, stop)
    } catch (error) {
      if (stop.aborted) return
      deps.log({ level: 'warn', event: 'queue_unreachable', error: String(error) })
      await wait(backoffMs, undefined, { signal: stop }).catch(() => {})
      backoffMs = Math.min(backoffMs * 2, MAX_BACKOFF_MS)
    }
  }
}

async function handleMessage(
  deps: ConsumeDeps,
  message: QueueMessage,
  stop: AbortSignal,
): Promise<void> {
  const jobId = readJobId(message.body)
  if (jobId === null) {
    deps.log({ level: 'error', event: 'message_unreadable', message: message.id })
    await deps.queue.remove(message.receipt)
    return
  }
  const startedAt = performance.now()
  const lease = deps.leases.hold(message.receipt)
  let end: JobEnd
  try {
    end = await runJob(deps, jobId, { lease: lease.signal, stop })
  } catch (error) {
    deps.log({ level: 'error', event: 'job_interrupted', job: jobId, error: String(error) })
    return
  } finally {
    lease.release()
  }
  const durationMs = Math.round(performance.now() - startedAt)
  deps.log({ level: 'info', event: 'job_end', job: jobId, durationMs, ...end })
  if (end.outcome === 'settled') deps.onSettled()
  await answerQueue(deps, message, end)
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
