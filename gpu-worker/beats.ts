import type { Db } from '../db/client.ts'
import { beatJob } from '../db/job-claims.ts'

/** Why an attempt has to end early; the first reason stands. */
export type StopReason = 'stop' | 'lost' | 'deadline' | 'canceled' | 'expired' | 'superseded'

export interface Beats {
  /** Aborted with a `StopReason`. */
  readonly signal: AbortSignal
  /** Keeps progress for the next report. */
  readonly note: (progress: Record<string, unknown>) => void
  /** Waits for a beat under way. Safe to repeat. */
  end(): Promise<void>
}

/**
 * Keeps the claim on a running job alive in the database, reports progress and hears of a wish to cancel.
 *
 * A report goes out when there is progress, at most once per interval, and at the latest after `beatSeconds`.
 * Beats that fail are tried again; when none came through for a whole lease the job counts as lost.
 */
export function startBeats(input: {
  db: Db
  jobId: string
  attempt: number
  /** The job's own; after it the reason is `expired`. */
  deadlineAt: Date
  times: { leaseSeconds: number; beatSeconds: number; progressIntervalMs: number }
  lease: AbortSignal
  stop: AbortSignal
}): Beats {
  const { db, jobId, attempt, deadlineAt, times, lease, stop } = input
  const { signal, abort, detach } = joinStops(lease, stop)
  let waiting: Record<string, unknown> | null = null
  let heardAt = performance.now()
  let underWay: Promise<void> | null = null

  const beat = async () => {
    const progress = waiting
    waiting = null
    try {
      const said = progress === null ? {} : { progress }
      const answer = await beatJob(db, {
        jobId,
        attempt,
        leaseSeconds: times.leaseSeconds,
        ...said,
      })
      heardAt = performance.now()
      if (!answer.owned) abort('superseded')
      else if (answer.cancelRequested) abort('canceled')
    } catch {
      if (performance.now() - heardAt >= times.leaseSeconds * 1_000) abort('lost')
    }
  }
  const tick = () => {
    if (Date.now() >= deadlineAt.getTime()) abort('expired')
    const isDue = performance.now() - heardAt >= times.beatSeconds * 1_000
    if (underWay !== null || !(isDue || waiting !== null)) return
    underWay = beat().finally(() => {
      underWay = null
    })
  }
  const timer = setInterval(tick, times.progressIntervalMs)
  return {
    signal,
    note: (progress) => {
      waiting = progress
    },
    async end() {
      clearInterval(timer)
      detach()
      await underWay
    },
  }
}

/** One signal for the stops from outside and those that `abort` adds. */
function joinStops(lease: AbortSignal, stop: AbortSignal) {
  const controller = new AbortController()
  const abort = (reason: StopReason) => controller.abort(reason)
  const onLease = () => abort(lease.reason === 'deadline' ? 'deadline' : 'lost')
  const onStop = () => abort('stop')
  if (stop.aborted) onStop()
  if (lease.aborted) onLease()
  lease.addEventListener('abort', onLease, { once: true })
  stop.addEventListener('abort', onStop, { once: true })
  const detach = () => {
    lease.removeEventListener('abort', onLease)
    stop.removeEventListener('abort', onStop)
  }
  return { signal: controller.signal, abort, detach }
}
