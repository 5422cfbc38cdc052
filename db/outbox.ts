import type { Db } from './client.ts'

export interface DispatchMessage {
  /** Id of the outbox row. */
  id: bigint
  jobId: string
  orgId: string
  /** Which of the queues it belongs to. */
  priority: 'standard' | 'batch'
  /** Where the spans of its job belong; null where nobody traces. */
  traceparent: string | null
}

/** How long a taken row is left alone before another sweep tries it again. */
const RETRY_AFTER_SECONDS = 30

/**
 * Takes messages whose writer did not send them; each is given to one taker at a time and comes back after
 * a while unless it is marked done.
 *
 * @param input.graceSeconds rows younger than this are left to the process that wrote them
 */
export async function takeDueDispatches(
  db: Db,
  input: { limit: number; graceSeconds: number },
): Promise<DispatchMessage[]> {
  return await db.sql<DispatchMessage[]>`
    update outbox set attempts = attempts + 1,
                      available_at = now() + make_interval(secs => ${RETRY_AFTER_SECONDS})
     where id in (
       select id from outbox
        where topic = 'job.dispatch' and done_at is null
          and available_at <= now() - make_interval(secs => ${input.graceSeconds})
        order by available_at limit ${input.limit} for update skip locked)
    returning id, payload->>'job_id' as "jobId", payload->>'org_id' as "orgId",
              (select priority from job where id = payload->>'job_id') as priority,
              (select trace_parent from job where id = payload->>'job_id') as traceparent`
}

/** Marks messages as sent and their jobs as queued. Safe to repeat. */
export async function markDispatched(db: Db, ids: readonly bigint[]): Promise<void> {
  if (ids.length === 0) return
  await db.sql`
    with sent as (
      update outbox set done_at = now()
       where id = any(${ids.map(String)}::bigint[]) and done_at is null
      returning payload->>'job_id' as job_id)
    update job set dispatched_at = now(), state = case state when 'accepted' then 'queued' else state end
     where id in (select job_id from sent) and state in ('accepted', 'queued', 'running')`
}

/**
 * Writes new messages for unfinished jobs that nobody works on and whose last message is older than given:
 * the queue may have lost it. A second message for one job is harmless.
 *
 * @returns how many were written
 */
export async function restageDispatch(
  db: Db,
  input: { olderThanSeconds: number; limit: number },
): Promise<number> {
  const rows = await db.sql`
    insert into outbox (topic, dedupe_key, payload)
    select 'job.dispatch', id || ':' || extract(epoch from now())::bigint || ':' || attempt,
           jsonb_build_object('job_id', id, 'org_id', org_id)
      from job
     where finished_at is null and (lease_until is null or lease_until < now())
       and created_at <= now() - make_interval(secs => ${input.olderThanSeconds})
       and coalesce(dispatched_at, created_at) <= now() - make_interval(secs => ${input.olderThanSeconds})
       and not exists (select 1 from outbox o where o.topic = 'job.dispatch' and o.done_at is null
                          and o.payload->>'job_id' = job.id)
     order by created_at limit ${input.limit}
    on conflict (topic, dedupe_key) do nothing
    returning id`
  return rows.length
}
