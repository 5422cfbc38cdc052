import type { Db } from './client.ts'

export type RestageOutcome =
  | 'restaged'
  /** Finished or unknown. */
  | 'gone'
  /** It has to be settled: as expired, or as failed because it failed too often. */
  | 'overdue'
  | 'exhausted'

/**
 * Writes a new queue message for one job whose message ended among the dead letters, for after the lease of
 * whoever works on it. Safe to repeat with the same `letterId`: one message is written.
 *
 * @param input.letterId names the dead letter
 */
export async function restageJob(
  db: Db,
  input: { jobId: string; letterId: string; maxFailedAttempts: number },
): Promise<{ outcome: RestageOutcome }> {
  const [row] = await db.sql<{ failures: number; overdue: boolean }[]>`
    with unfinished as (
      select id, org_id, lease_until, deadline_at <= now() as overdue,
             failed_attempts + case when state = 'running' and lease_until <= now() then 1 else 0 end as failures
        from job
       where id = ${input.jobId} and state in ('accepted', 'queued', 'running')
    ), staged as (
      insert into outbox (topic, dedupe_key, payload, available_at)
      select 'job.dispatch', id || ':dead:' || ${input.letterId},
             jsonb_build_object('job_id', id, 'org_id', org_id), greatest(now(), lease_until)
        from unfinished where failures < ${input.maxFailedAttempts}::int and not overdue
      on conflict (topic, dedupe_key) do nothing
    )
    select failures, overdue from unfinished`
  if (!row) return { outcome: 'gone' }
  if (row.overdue) return { outcome: 'overdue' }
  return { outcome: row.failures >= input.maxFailedAttempts ? 'exhausted' : 'restaged' }
}

/**
 * Ends the leases of all running jobs, so that they can be claimed at once. Only for a database whose workers
 * are all known to be dead: a live one would lose its job.
 *
 * @returns how many leases ended
 */
export async function endLeases(db: Db): Promise<number> {
  const changed = await db.sql`
    update job set lease_until = now() where state = 'running' and lease_until > now()`
  return changed.count
}
