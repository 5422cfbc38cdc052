import { setTimeout as wait } from 'node:timers/promises'
import { isOutage } from '../db/outage.ts'

/** A failover takes a minute or two; whoever waits longer has been given up by its lease long since. */
const PATIENCE_MS = 900_000
const FIRST_PAUSE_MS = 250
const MAX_PAUSE_MS = 5_000
/** A worker that has to leave has seconds left, and its lease brings the job back anyway. */
const TRIES_WHILE_LEAVING = 3

/**
 * Repeats a call to the database for as long as the database is away: a picture that was made, or the word about
 * one, is worth the wait, and this worker could do nothing else meanwhile.
 *
 * @param work safe to repeat
 * @throws what `work` throws when waiting does not help, or has lasted too long
 */
export async function insist<T>(
  deps: { stop: AbortSignal; log: (entry: Record<string, unknown>) => void },
  jobId: string,
  work: () => Promise<T>,
): Promise<T> {
  const { stop, log } = deps
  const giveUpAt = performance.now() + PATIENCE_MS
  let triesWhileLeaving = 0
  for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs = Math.min(pauseMs * 2, MAX_PAUSE_MS)) {
    try {
      return await work()
    } catch (error) {
      if (stop.aborted) triesWhileLeaving += 1
      const isLate = triesWhileLeaving >= TRIES_WHILE_LEAVING || performance.now() > giveUpAt
      if (isLate || !isOutage(error)) throw error
      log({ level: 'warn', event: 'database_away', job: jobId, error: String(error) })
      if (stop.aborted) await wait(FIRST_PAUSE_MS)
      else await wait(pauseMs, undefined, { signal: stop }).catch(() => {})
    }
  }
}
