import { and, asc, desc, eq, inArray, lt } from 'drizzle-orm'
import type { Db } from './client.ts'
import { createId } from './ids.ts'
import { webhookAttempt, webhookDelivery, webhookEvent } from './schema/webhook.ts'

export type DeliveryRow = typeof webhookDelivery.$inferSelect
export type AttemptRow = typeof webhookAttempt.$inferSelect

export interface LoggedDelivery {
  delivery: DeliveryRow
  event: { type: string; subjectId: string }
  /** In order of time. */
  attempts: AttemptRow[]
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
    .select({
      delivery: webhookDelivery,
      event: { type: webhookEvent.type, subjectId: webhookEvent.subjectId },
    })
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

export type ReplayResult =
  { ok: true; delivery: LoggedDelivery } | { ok: false; reason: 'not_found' | 'endpoint_disabled' }

/**
 * Sends an event once more to where a delivery went: a new delivery of the same event, so that the log of
 * the old one stays as it is and receivers can tell by the event id. Each call makes one.
 */
export async function replayDelivery(
  db: Db,
  input: { orgId: string; deliveryId: string; at: Date },
): Promise<ReplayResult> {
  const [found] = await db.sql<{ is_wanted: boolean }[]>`
    select w.id is null or (w.enabled and w.deleted_at is null) as is_wanted
      from webhook_delivery d left join webhook_endpoint w on w.id = d.endpoint_id
     where d.id = ${input.deliveryId} and d.org_id = ${input.orgId}`
  if (!found) return { ok: false, reason: 'not_found' }
  if (!found.is_wanted) return { ok: false, reason: 'endpoint_disabled' }
  const id = createId('delivery')
  const at = input.at.toISOString()
  await db.sql`
    insert into webhook_delivery (id, event_id, org_id, endpoint_id, url, state, next_attempt_at, created_at)
    select ${id}, d.event_id, d.org_id, d.endpoint_id, coalesce(w.url, d.url), 'pending',
           ${at}::timestamptz, ${at}::timestamptz
      from webhook_delivery d left join webhook_endpoint w on w.id = d.endpoint_id
     where d.id = ${input.deliveryId}`
  const [row] = await db.orm
    .select({
      delivery: webhookDelivery,
      event: { type: webhookEvent.type, subjectId: webhookEvent.subjectId },
    })
    .from(webhookDelivery)
    .innerJoin(webhookEvent, eq(webhookEvent.id, webhookDelivery.eventId))
    .where(eq(webhookDelivery.id, id))
  if (!row) throw new Error('a delivery just written is not there')
  return { ok: true, delivery: { ...row, attempts: [] } }
}

async function listAttempts(db: Db, deliveryIds: string[]): Promise<AttemptRow[]> {
  if (deliveryIds.length === 0) return []
  return db.orm
    .select()
    .from(webhookAttempt)
    .where(inArray(webhookAttempt.deliveryId, deliveryIds))
    .orderBy(asc(webhookAttempt.startedAt))
}
