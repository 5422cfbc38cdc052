import type { JobEnd } from './run-job.ts'

/** What a worker knows of its own state from how its jobs end. */
export interface Health {
  /** How long it should rest before it takes another job. */
  restMs(): number
  /** Aborted when no engine could be started several times in a row. */
  readonly broken: AbortSignal
  /**
   * @param end null when an error of this worker cut the job short
   * @param startedAt when the job was taken: what several jobs met at the same time is one failure
   */
  note(end: JobEnd | null, startedAt: number): void
}

/** Engines that would not start, one after the other: a new process may get what this one does not. */
const MAX_FAILED_STARTS = 3
const ENGINE_FAULTS: ReadonlySet<string> = new Set(['engine_start_failed', 'model_invalid'])

/** @param restSeconds by the number of failures in a row; the last one repeats */
export function createHealth(restSeconds: readonly number[]): Health {
  const broken = new AbortController()
  let failures = 0
  let failedStarts = 0
  let failedAt = -Infinity
  let restUntil = -Infinity
  return {
    broken: broken.signal,
    restMs: () => Math.max(0, restUntil - performance.now()),
    note(end, startedAt) {
      if (startedAt < failedAt) return
      if (end === null || (end.outcome === 'given_back' && end.isWorkerSick)) {
        const isEngine = end !== null && ENGINE_FAULTS.has(end.errorCode ?? '')
        failedStarts = isEngine ? failedStarts + 1 : 0
        if (failedStarts >= MAX_FAILED_STARTS) broken.abort()
        failedAt = performance.now()
        restUntil = failedAt + (restSeconds[failures] ?? restSeconds.at(-1) ?? 0) * 1_000
        failures += 1
      } else if (end.outcome === 'settled' || end.outcome === 'given_back') {
        failures = 0
        failedStarts = 0
      }
    },
  }
}
