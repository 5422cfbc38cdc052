import type { Db } from '../db/client.ts'
import { settleJob } from './settle.ts'

/**
 * Ends unfinished jobs past their deadline and releases their holds. One that a live worker holds is asked to
 * stop instead; its worker settles it, or its lease runs out and a later call does. Safe to run in several
 * processes at once.
 *
 * @returns how many jobs ended
 */
export async function expireOverdue(db: Db, input: { limit: number }): Promise<number> {
  const overdue = await db.sql<{ id: string }[]>`
    select id from job
     where state in ('accepted', 'queued', 'running') and deadline_at <= now()
       and not (state = 'running' and lease_until > now() and cancel_requested_at is not null)
     order by deadline_at limit ${input.limit}`
  let ended = 0
  for (const { id } of overdue) {
    const result = await settleJob(db, {
      jobId: id,
      attempt: null,
      outcome: 'expired',
      errorCode: 'deadline_exceeded',
      errorMessage:
        'The job did not finish before its deadline. Nothing was charged for what is missing.',
    })
    if (result.outcome === 'settled') ended += 1
    if (result.outcome === 'superseded') {
      await db.sql`
        update job set cancel_requested_at = coalesce(cancel_requested_at, now())
         where id = ${id} and state = 'running'`
    }
  }
  return ended
}
