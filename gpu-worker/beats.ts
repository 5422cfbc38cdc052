import type { Db } from '../db/client.ts'
import { beatJob } from '../db/job-claims.ts'

/** Why an attempt has to end early; the first reason stands. */
export type StopReason = 'stop' | 'lost' | 'deadline' | 'canceled' | 'expired' | 'superseded'

export interface Beats {
  /** Aborted with a `StopReason`. */
  readonly signal: AbortSignal
  /** Keeps progress for the next report. */
  readonly note: (progress: Record<string, unknown>) => void
  /** Safe to repeat. A beat under way may still arrive; once the job has ended or has another attempt it does nothing. */
  end(): void
}

/**
 * Keeps the claim on a running job alive in the database, reports progress and hears of a wish to cancel and of
 * the job's deadline, both by the database's word.
 *
 * A report goes out when there is progress, at most once per interval, and at the latest after `beatSeconds`.
 * Beats that fail are tried again; when none came through for a whole lease, be it failed or still unanswered,
 * the job counts as lost.
 */
export function startBeats(input: {
  db: Db
  jobId: string
  attempt: number
  times: { leaseSeconds: number; beatSeconds: number; progressIntervalMs: number }
  lease: AbortSignal
  stop: AbortSignal
}): Beats {
  const { db, jobId, attempt, times, lease, stop } = input
  const { signal, abort, detach } = joinStops(lease, stop)
  let waiting: Record<string, unknown> | null = null
  let heardAt = performance.now()
  let isUnderWay = false

  const beat = async () => {
    const said = waiting === null ? {} : { progress: waiting }
    waiting = null
    isUnderWay = true
    const askedAt = performance.now()
    try {
      const { leaseSeconds } = times
      const answer = await beatJob(db, { jobId, attempt, leaseSeconds, ...said })
      // The lease counts from when the database heard of us, at the earliest from the question.
      heardAt = askedAt
      if (!answer.owned) abort('superseded')
      else if (answer.cancelRequested) abort('canceled')
      else if (answer.overdue) abort('expired')
    } catch {
      // The next tick tries again, until the lease is over.
    } finally {
      isUnderWay = false
    }
  }
  const tick = () => {
    const silentMs = performance.now() - heardAt
    if (silentMs >= times.leaseSeconds * 1_000) abort('lost')
    const isDue = silentMs >= times.beatSeconds * 1_000
    if (!isUnderWay && (isDue || waiting !== null)) void beat()
  }
  const timer = setInterval(tick, times.progressIntervalMs)
  return {
    signal,
    note: (progress) => {
      waiting = progress
    },
    end() {
      clearInterval(timer)
      detach()
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
