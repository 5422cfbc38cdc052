import type { Db } from '../db/client.ts'
import { settleJob } from './settle.ts'
import type { SettleInput } from './settle.ts'

/** How a job ends that was not finished in time. */
export const OVERDUE: Pick<SettleInput, 'outcome' | 'errorCode' | 'errorMessage'> = {
  outcome: 'expired',
  errorCode: 'deadline_exceeded',
  errorMessage:
    'The job did not finish before its deadline. Nothing was charged for what is missing.',
}

/**
 * Ends unfinished jobs past their deadline and releases their holds. One that a live worker holds is left to it:
 * its next beat tells it so; should it die, its lease runs out and a later call ends the job. A job that cannot be
 * settled keeps no other from its end. Safe to run in several processes at once.
 *
 * @returns how many jobs ended
 * @throws the first error, after all were tried
 */
export async function expireOverdue(db: Db, input: { limit: number }): Promise<number> {
  const overdue = await db.sql<{ id: string }[]>`
    select id from job
     where finished_at is null and deadline_at <= now()
       and not (state = 'running' and lease_until > now())
     order by deadline_at limit ${input.limit}`
  let ended = 0
  const errors: unknown[] = []
  for (const { id } of overdue) {
    try {
      const result = await settleJob(db, { jobId: id, attempt: null, ...OVERDUE })
      if (result.outcome === 'settled') ended += 1
    } catch (error) {
      errors.push(error)
    }
  }
  if (errors.length > 0) throw errors[0]
  return ended
}
