import type { Db } from './client.ts'

/** Rows of this age may go, at most so many at a call. */
export interface Retention {
  olderThanSeconds: number
  limit: number
}

/**
 * Removes queue messages that were sent long ago. Any number may run at once.
 *
 * @returns how many
 */
export async function pruneDispatches(db: Db, input: Retention): Promise<number> {
  const removed = await db.sql`
    delete from outbox where id in (
      select id from outbox
       where topic = 'job.dispatch'
         and done_at < now() - make_interval(secs => ${input.olderThanSeconds})
       order by done_at limit ${input.limit} for update skip locked)`
  return removed.count
}

/**
 * Removes old events with their deliveries and attempts. An event that was sent again lately, or that
 * somebody still has to get, stays with its whole log. Any number may run at once; a replay in the very
 * moment makes the call fail and change nothing.
 *
 * @returns how many events
 */
export async function pruneWebhookLog(db: Db, input: Retention): Promise<number> {
  const removed = await db.sql`
    with old as materialized (
      select e.id from webhook_event e
       where e.created_at < now() - make_interval(secs => ${input.olderThanSeconds})
         and not exists (
           select 1 from webhook_delivery d where d.event_id = e.id and (d.state = 'pending'
              or d.created_at >= now() - make_interval(secs => ${input.olderThanSeconds})))
       order by e.created_at limit ${input.limit} for update of e skip locked
    ), attempt as (
      delete from webhook_attempt where delivery_id in (
        select d.id from webhook_delivery d join old on old.id = d.event_id)
    ), delivery as (
      delete from webhook_delivery where event_id in (select id from old)
    )
    delete from webhook_event where id in (select id from old)`
  return removed.count
}
