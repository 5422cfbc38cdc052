import { and, asc, desc, eq, inArray, lt } from 'drizzle-orm'
import type { Db } from './client.ts'
import { withTransaction } from './client.ts'
import { createId } from './ids.ts'
import type { TerminalState } from './job-state.ts'
import { webhookAttempt, webhookDelivery, webhookEvent } from './schema/webhook.ts'

export type DeliveryRow = typeof webhookDelivery.$inferSelect
export type AttemptRow = typeof webhookAttempt.$inferSelect

export interface LoggedDelivery {
  delivery: DeliveryRow
  event: { type: string; subjectId: string }
  /** In order of time. */
  attempts: AttemptRow[]
}

const WITH_EVENT = {
  delivery: webhookDelivery,
  event: { type: webhookEvent.type, subjectId: webhookEvent.subjectId },
}

/** A page of the org's delivery log, newest first. @param input.before id of the last one of the page before */
export async function listDeliveries(
  db: Db,
  input: {
    orgId: string
    endpointId?: string
    subjectId?: string
    state?: DeliveryRow['state']
    before?: string
    limit: number
  },
): Promise<LoggedDelivery[]> {
  const { endpointId, subjectId, state, before } = input
  const rows = await db.orm
    .select(WITH_EVENT)
    .from(webhookDelivery)
    .innerJoin(webhookEvent, eq(webhookEvent.id, webhookDelivery.eventId))
    .where(
      and(
        eq(webhookDelivery.orgId, input.orgId),
        endpointId === undefined ? undefined : eq(webhookDelivery.endpointId, endpointId),
        subjectId === undefined ? undefined : eq(webhookEvent.subjectId, subjectId),
        state === undefined ? undefined : eq(webhookDelivery.state, state),
        before === undefined ? undefined : lt(webhookDelivery.id, before),
      ),
    )
    .orderBy(desc(webhookDelivery.id))
    .limit(input.limit)
  const attempts = await listAttempts(
    db,
    rows.map((row) => row.delivery.id),
  )
  return rows.map((row) => ({
    ...row,
    attempts: attempts.filter((attempt) => attempt.deliveryId === row.delivery.id),
  }))
}

/** A delivery of this org with its attempts, or null: another org's delivery is not there. */
export async function findDelivery(
  db: Db,
  input: { orgId: string; deliveryId: string },
): Promise<LoggedDelivery | null> {
  const [row] = await db.orm
    .select(WITH_EVENT)
    .from(webhookDelivery)
    .innerJoin(webhookEvent, eq(webhookEvent.id, webhookDelivery.eventId))
    .where(and(eq(webhookDelivery.id, input.deliveryId), eq(webhookDelivery.orgId, input.orgId)))
  return row ? { ...row, attempts: await listAttempts(db, [row.delivery.id]) } : null
}

export type ReplayResult =
  | { ok: true; delivery: LoggedDelivery }
  | { ok: false; reason: 'not_found' | 'endpoint_disabled' | 'job_deleted' }

/**
 * Sends an event once more to where a delivery went: a new delivery of the same event, so that the log of
 * the old one stays as it is and receivers can tell by the event id. Each call makes one.
 */
export async function replayDelivery(
  db: Db,
  input: { orgId: string; deliveryId: string; at: Date },
): Promise<ReplayResult> {
  const id = createId('delivery')
  const at = input.at.toISOString()
  const refused = await withTransaction(db, async (tx) => {
    // Against a deletion of the job at the same time: whoever comes second sees what the first has done.
    await tx.sql`
      select 1 from webhook_event where id = (
        select event_id from webhook_delivery
         where id = ${input.deliveryId} and org_id = ${input.orgId}) for share`
    const [found] = await tx.sql<{ is_wanted: boolean; is_forgotten: boolean }[]>`
      select w.id is null or (w.enabled and w.deleted_at is null) as is_wanted,
             d.endpoint_id is null and j.deleted_at is not null as is_forgotten
        from webhook_delivery d join webhook_event event on event.id = d.event_id
        left join webhook_endpoint w on w.id = d.endpoint_id
        left join job j on j.id = event.subject_id
       where d.id = ${input.deliveryId} and d.org_id = ${input.orgId}`
    if (!found) return 'not_found'
    if (!found.is_wanted) return 'endpoint_disabled'
    if (found.is_forgotten) return 'job_deleted'
    await tx.sql`
      insert into webhook_delivery (id, event_id, org_id, endpoint_id, url, state, next_attempt_at, created_at)
      select ${id}, d.event_id, d.org_id, d.endpoint_id, coalesce(w.url, d.url), 'pending',
             ${at}::timestamptz, ${at}::timestamptz
        from webhook_delivery d left join webhook_endpoint w on w.id = d.endpoint_id
       where d.id = ${input.deliveryId}`
    return null
  })
  if (refused !== null) return { ok: false, reason: refused }
  const delivery = await findDelivery(db, { orgId: input.orgId, deliveryId: id })
  if (delivery === null) throw new Error('a delivery just written is not there')
  return { ok: true, delivery }
}

/** The types of a job's events; with them an index finds those of one job. */
const JOB_EVENT_TYPES = [
  'job.succeeded',
  'job.failed',
  'job.canceled',
  'job.expired',
] as const satisfies readonly `job.${TerminalState}`[]

/** What may stay of a URL that came with a job: scheme, host and port. */
const ORIGIN = String.raw`^[A-Za-z]+://[^/?#\\]+`

/**
 * Takes out of the webhook log what the caller of a job wrote: its request id, and its own URL with all that
 * is in it. What still waits for that URL is not sent. Part of the deletion's transaction; safe to repeat.
 */
export async function forgetJobInWebhooks(tx: Db, jobId: string): Promise<void> {
  const events = await tx.sql<{ id: string }[]>`
    update webhook_event set payload = jsonb_set(payload, '{data,request_id}', 'null')
     where type = any (${[...JOB_EVENT_TYPES]}::text[]) and subject_id = ${jobId}
    returning id`
  // A statement of its own: it sees a replay that held the event until now.
  await tx.sql`
    update webhook_delivery set url = coalesce(substring(url from ${ORIGIN}), ''),
           state = case state when 'pending' then 'canceled' else state end
     where event_id = any (${events.map(({ id }) => id)}::text[]) and endpoint_id is null`
}

async function listAttempts(db: Db, deliveryIds: string[]): Promise<AttemptRow[]> {
  if (deliveryIds.length === 0) return []
  return db.orm
    .select()
    .from(webhookAttempt)
    .where(inArray(webhookAttempt.deliveryId, deliveryIds))
    .orderBy(asc(webhookAttempt.startedAt))
}
