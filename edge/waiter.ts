import type { Db } from '../db/client.ts'
import { isTerminal } from '../db/job-state.ts'
import { readJobStates } from '../db/jobs.ts'

/** Lets synchronous calls wait for their jobs with one query for all of them. */
export interface JobWaiter {
  /**
   * Resolves with true when the job has ended, with false when the longest wait is over or `signal` aborts.
   * A database that cannot be reached does not end the wait.
   */
  wait(jobId: string, signal?: AbortSignal): Promise<boolean>
  /** Ends every wait with false, now and from now on. */
  stop(): void
}

/** Clients of both dialects give up after 300 s; before that they get an answer that names the job. */
export const LONGEST_WAIT_MS = 240_000

/** A picture takes seconds; this adds at most a quarter of one, and four queries per second per process. */
const POLL_INTERVAL_MS = 250

/** One waiter per process on Node; one per request on Workers, where requests may not share I/O. */
export function createJobWaiter(
  db: Db,
  log: (entry: Record<string, unknown>) => void = () => {},
  longestWaitMs = LONGEST_WAIT_MS,
): JobWaiter {
  const callers = new Map<string, Set<() => void>>()
  const stops = new Set<() => void>()
  let isStopped = false
  let isPolling = false

  async function poll(): Promise<void> {
    isPolling = true
    while (callers.size > 0) {
      try {
        for (const { id, state } of await readJobStates(db, [...callers.keys()])) {
          if (isTerminal(state)) for (const wake of callers.get(id) ?? []) wake()
        }
      } catch (error) {
        log({ level: 'warn', event: 'status_poll_failed', error: String(error) })
      }
      await new Promise((resolve) => setTimeout(resolve, POLL_INTERVAL_MS))
    }
    isPolling = false
  }

  return {
    stop() {
      isStopped = true
      for (const stop of stops) stop()
    },
    wait: (jobId, signal) =>
      new Promise((resolve) => {
        if (signal?.aborted || isStopped) return resolve(false)
        const finish = (hasEnded: boolean) => {
          clearTimeout(timer)
          signal?.removeEventListener('abort', stop)
          stops.delete(stop)
          const others = callers.get(jobId)
          others?.delete(wake)
          if (others?.size === 0) callers.delete(jobId)
          resolve(hasEnded)
        }
        const wake = () => finish(true)
        const stop = () => finish(false)
        const timer = setTimeout(stop, longestWaitMs)
        signal?.addEventListener('abort', stop)
        stops.add(stop)
        const known = callers.get(jobId) ?? new Set()
        callers.set(jobId, known.add(wake))
        if (!isPolling) void poll()
      }),
  }
}
