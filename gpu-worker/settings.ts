/**
 * Numbers that worker, queue and infrastructure must agree on.
 */

/**
 * A message that nobody extends is visible again after this, and a job that nobody reports of is free: three beats, so that
 * two may be missed. Under a minute by what the next worker needs to take the job, so that one whose worker was killed is
 * drawn again within the minute (`npm run bench:restart`).
 */
export const VISIBILITY_SECONDS = 55
/** Rhythm of the heartbeat; a third of the visibility. */
export const BEAT_SECONDS = 18
/** Receives before the queue moves a message to the dead letters; also the failures that end a job. */
export const MAX_RECEIVES = 3
/**
 * The longest that an attempt is kept alive without storing a picture: three and a half times the slowest known
 * (253 s for 2048x2048 by the reference implementation on an H100), so that a hung job ends and another worker
 * gets it.
 */
export const ATTEMPT_SECONDS = 900
/** The time that each job beside it may add to that of an attempt: painting the slowest picture known. */
export const PAINT_SECONDS = 260
/** Time that a worker has to hand its job back when it is told to stop; supervisors wait ten seconds. */
export const DRAIN_MS = 8_000
/** The longest wait that the queue offers; shorter ones only cost more calls. */
export const LONG_POLL_SECONDS = 20
/** Pause before a failed job is tried again, by the number of failures so far. */
export const RETRY_DELAYS_SECONDS: readonly number[] = [5, 30]
/** Pause of a worker after failures of its own in a row: each try takes a message from the workers that are well. */
export const REST_SECONDS: readonly number[] = [1, 2, 4, 8, 15, 30, 60]
/** Progress is written at most this often. */
export const PROGRESS_INTERVAL_MS = 1_000

/**
 * What follows a failed attempt: the pause before the next, by the number of failures before this one; the last one
 * repeats.
 *
 * @returns null when this failure ends the job
 */
export function retrySecondsAfter(
  failuresBefore: number,
  delays: readonly number[] = RETRY_DELAYS_SECONDS,
): number | null {
  if (failuresBefore + 1 >= MAX_RECEIVES) return null
  return delays[failuresBefore] ?? delays.at(-1) ?? 0
}
