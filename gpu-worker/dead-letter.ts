import { setTimeout as wait } from 'node:timers/promises'
import { OVERDUE } from '../billing/expire.ts'
import { settleJob } from '../billing/settle.ts'
import type { Db } from '../db/client.ts'
import { restageJob } from '../db/restage-job.ts'
import type { Log } from './consume.ts'
import type { WorkerMetrics } from './metrics.ts'
import { exhaustedOutcome } from './run-job.ts'
import { MAX_RECEIVES } from './settings.ts'
import { readJobId } from './sqs.ts'
import type { Queue, QueueMessage } from './sqs.ts'

export interface DeadLetterDeps {
  readonly db: Db
  /** The dead-letter queue. */
  readonly letters: Queue
  readonly pollSeconds: number
  readonly log: Log
  readonly onSettled: () => void
  readonly metrics?: WorkerMetrics
}

/** A letter costs two statements; after this it is another reader's. */
const VISIBILITY_SECONDS = 30
const BACKOFF_MS = 5_000

/**
 * Reads dead letters until `stop` is aborted, so that no hold stays open because a message was given up.
 * Never throws; what fails is logged, and the letter comes back.
 */
export async function consumeDeadLetters(deps: DeadLetterDeps, stop: AbortSignal): Promise<void> {
  while (!stop.aborted) {
    try {
      const letter = await deps.letters.receive({
        waitSeconds: deps.pollSeconds,
        visibilitySeconds: VISIBILITY_SECONDS,
        signal: stop,
      })
      if (letter) await handleLetter(deps, letter)
    } catch (error) {
      if (stop.aborted) return
      deps.log({ level: 'warn', event: 'dead_letter_failed', error: String(error) })
      await wait(BACKOFF_MS, undefined, { signal: stop }).catch(() => {})
    }
  }
}

/**
 * The queue counts deliveries, also those given back on a stop; only the database knows failures. A job that
 * may be tried again gets a new message; one that may not is settled and its hold released. Safe to repeat.
 */
export async function handleLetter(deps: DeadLetterDeps, letter: QueueMessage): Promise<void> {
  const jobId = readJobId(letter.body)
  if (jobId === null) {
    deps.log({ level: 'error', event: 'message_unreadable', message: letter.id })
  } else {
    const { outcome } = await restageJob(deps.db, {
      jobId,
      letterId: letter.id,
      maxFailedAttempts: MAX_RECEIVES,
    })
    deps.metrics?.deadLetter(outcome)
    deps.log({ level: 'warn', event: 'dead_letter', job: jobId, outcome })
    if (outcome === 'exhausted' || outcome === 'overdue') {
      const end = outcome === 'overdue' ? OVERDUE : exhaustedOutcome()
      const result = await settleJob(deps.db, { jobId, attempt: null, ...end })
      deps.metrics?.settled(result, end.errorCode)
      // A live worker holds it: its own settlement, or a later reading of this letter, ends the job.
      if (result.outcome === 'superseded') return
      deps.onSettled()
    }
  }
  await deps.letters.remove(letter.receipt)
}
