import type { Db } from './client.ts'
import { withTransaction } from './client.ts'
import { createId } from './ids.ts'

/** A delivery taken for one attempt, with all that the attempt needs. */
export interface ClaimedDelivery {
  id: string
  eventId: string
  orgId: string
  /** The body to send. */
  payload: Record<string, unknown>
  /** The endpoint's address of today, or the URL that came with the job. */
  url: string
  /** Number of this attempt, from 1; the fence of its result. */
  attempt: number
  /** Null for a URL that came with a job. */
  endpoint: { id: string; secretVersion: number; signsWithPrevious: boolean } | null
  /** False when the endpoint was disabled or deleted meanwhile. */
  isWanted: boolean
  /** Of the job that the event is about: the request that made it, and where its spans belong. Null where not known. */
  requestId: string | null
  traceparent: string | null
}

export interface AttemptResult {
  startedAt: Date
  durationMs: number
  statusCode: number | null
  error: string | null
}

/** What becomes of the delivery. Until `deferUntil` nothing at all is sent to its endpoint. */
export type AttemptVerdict =
  | { state: 'delivered' }
  | { state: 'pending'; nextAttemptAt: Date; deferUntil: Date | null }
  | { state: 'failed'; isGone: boolean; deferUntil: Date | null }

/**
 * Takes due deliveries, each for one caller at a time. Taking counts the attempt and sets the delivery due
 * again after the lease, so that one whose taker dies is repeated. Endpoints that asked for a pause are left
 * alone, also for events that came since.
 *
 * @param input.leaseSeconds longer than one attempt can last
 * @param input.exceptOrgs orgs whose deliveries are left where they are
 */
export async function claimDueDeliveries(
  db: Db,
  input: { now: Date; limit: number; leaseSeconds: number; exceptOrgs?: readonly string[] },
): Promise<ClaimedDelivery[]> {
  const now = input.now.toISOString()
  const rows = await db.sql<ClaimRow[]>`
    with due as materialized (
      select d.id from webhook_delivery d left join webhook_endpoint e on e.id = d.endpoint_id
       where d.state = 'pending' and d.next_attempt_at <= ${now}::timestamptz
         and d.org_id <> all (${[...(input.exceptOrgs ?? [])]}::text[])
         and (e.deferred_until is null or e.deferred_until <= ${now}::timestamptz)
       order by d.next_attempt_at limit ${input.limit} for update of d skip locked
    ), taken as (
      update webhook_delivery d set attempts = d.attempts + 1,
             next_attempt_at = ${now}::timestamptz + make_interval(secs => ${input.leaseSeconds})
        from due where d.id = due.id
      returning d.*
    )
    select taken.id, taken.event_id, taken.org_id, taken.attempts, taken.endpoint_id, event.payload,
           coalesce(endpoint.url, taken.url) as url, endpoint.secret_version,
           endpoint.previous_secret_until > ${now}::timestamptz as signs_with_previous,
           endpoint.id is null or (endpoint.enabled and endpoint.deleted_at is null) as is_wanted,
           job.request_id, job.trace_parent
      from taken
      join webhook_event event on event.id = taken.event_id
      left join job on job.id = event.subject_id
      left join webhook_endpoint endpoint on endpoint.id = taken.endpoint_id`
  return rows.map(toClaimed)
}

/**
 * Moves due deliveries of endpoints in a pause to its end, each at a moment of its own. `claimDueDeliveries`
 * leaves them alone in any case; moved, they no longer stand before the deliveries that it may take, and do
 * not all return together.
 *
 * @param input.spreadSeconds over which they come due after the pause
 * @returns how many were moved
 */
export async function postponeDeferred(
  db: Db,
  input: { now: Date; limit: number; spreadSeconds: number },
): Promise<number> {
  const now = input.now.toISOString()
  const moved = await db.sql`
    update webhook_delivery d
       set next_attempt_at = waiting.deferred_until + random() * make_interval(secs => ${input.spreadSeconds})
      from (
        select d.id, e.deferred_until
          from webhook_endpoint e join webhook_delivery d on d.endpoint_id = e.id
         where e.deferred_until > ${now}::timestamptz
           and d.state = 'pending' and d.next_attempt_at <= ${now}::timestamptz
         limit ${input.limit} for update of d skip locked) waiting
     where d.id = waiting.id`
  return moved.count
}

/** Gives up a delivery that nobody wants any more, without an attempt. */
export async function cancelDelivery(db: Db, input: { deliveryId: string }): Promise<void> {
  await db.sql`
    update webhook_delivery set state = 'canceled'
     where id = ${input.deliveryId} and state = 'pending'`
}

/**
 * Writes one attempt to the log and its consequence to delivery and endpoint, in one transaction. A result
 * that comes after the delivery was taken again is logged and changes nothing else.
 *
 * A success ends the endpoint's run of failures. A failure starts one or, if the run has lasted
 * `disableAfterSeconds`, disables the endpoint: the org's other endpoints get an event, and what waits for
 * this one is canceled as it comes up.
 *
 * Lock order: delivery, then endpoint. Nobody who holds an endpoint waits for a delivery, so any number of
 * attempts to one endpoint can be recorded at once.
 */
export async function recordAttempt(
  db: Db,
  input: {
    delivery: ClaimedDelivery
    result: AttemptResult
    verdict: AttemptVerdict
    disableAfterSeconds: number
  },
): Promise<{ isRecorded: boolean; isEndpointDisabled: boolean }> {
  const { delivery, result, verdict } = input
  const endedAt = new Date(result.startedAt.getTime() + result.durationMs)
  return withTransaction(db, async (tx) => {
    await tx.sql`
      insert into webhook_attempt (id, delivery_id, started_at, duration_ms, status_code, error)
      values (${createId('attempt')}, ${delivery.id}, ${result.startedAt.toISOString()}::timestamptz,
              ${Math.round(result.durationMs)}::int, ${result.statusCode}::int, ${result.error}::text)`
    const next = verdict.state === 'pending' ? verdict.nextAttemptAt.toISOString() : null
    const changed = await tx.sql`
      update webhook_delivery set state = ${verdict.state},
             next_attempt_at = coalesce(${next}::timestamptz, next_attempt_at),
             delivered_at = case ${verdict.state}
               when 'delivered' then ${endedAt.toISOString()}::timestamptz end
       where id = ${delivery.id} and attempts = ${delivery.attempt} and state = 'pending'`
    if (changed.count === 0) return { isRecorded: false, isEndpointDisabled: false }
    if (delivery.endpoint === null) return { isRecorded: true, isEndpointDisabled: false }
    const { id: endpointId } = delivery.endpoint
    const isEndpointDisabled = await noteEndpointHealth(tx, { ...input, endpointId, endedAt })
    return { isRecorded: true, isEndpointDisabled }
  })
}

async function noteEndpointHealth(
  tx: Db,
  input: {
    endpointId: string
    endedAt: Date
    verdict: AttemptVerdict
    disableAfterSeconds: number
  },
): Promise<boolean> {
  const { endpointId, verdict } = input
  if (verdict.state === 'delivered') {
    await tx.sql`
      update webhook_endpoint set failing_since = null
       where id = ${endpointId} and failing_since is not null`
    return false
  }
  const at = input.endedAt.toISOString()
  const deferUntil = verdict.deferUntil?.toISOString() ?? null
  const isGone = verdict.state === 'failed' && verdict.isGone
  const [row] = await tx.sql<{ disabled: boolean }[]>`
    update webhook_endpoint set failing_since = coalesce(failing_since, ${at}::timestamptz),
           deferred_until = greatest(deferred_until, ${deferUntil}::timestamptz)
     where id = ${endpointId} and enabled and deleted_at is null
    returning ${isGone} or failing_since <=
      ${at}::timestamptz - make_interval(secs => ${input.disableAfterSeconds}) as disabled`
  if (!row?.disabled) return false
  await disableEndpoint(tx, { endpointId, at, reason: isGone ? 'gone' : 'failing' })
  return true
}

async function disableEndpoint(
  tx: Db,
  input: { endpointId: string; at: string; reason: 'gone' | 'failing' },
): Promise<void> {
  const { endpointId, at, reason } = input
  await tx.sql`
    update webhook_endpoint set enabled = false, disabled_reason = ${reason} where id = ${endpointId}`
  // An endpoint can be enabled and fail again: the moment keeps one event from hiding the next.
  await tx.sql`
    with event as (
      insert into webhook_event (id, org_id, type, subject_id, payload)
      select ${createId('event')}, org_id, 'webhook_endpoint.disabled', id || ':' || ${at}::text,
             jsonb_build_object('type', 'webhook_endpoint.disabled', 'timestamp', ${at}::text,
               'data', jsonb_build_object('endpoint_id', id, 'url', url, 'reason', ${reason}::text))
        from webhook_endpoint where id = ${endpointId}
      returning id, org_id, type
    )
    insert into webhook_delivery (id, event_id, org_id, endpoint_id, url, state, next_attempt_at)
    select new_id('whd'), event.id, event.org_id, other.id, other.url, 'pending', ${at}::timestamptz
      from event join webhook_endpoint other on other.org_id = event.org_id
     where other.enabled and other.deleted_at is null
       and (other.event_types = '{}' or event.type = any (other.event_types))`
}

interface ClaimRow {
  id: string
  event_id: string
  org_id: string
  attempts: number
  endpoint_id: string | null
  payload: Record<string, unknown>
  url: string
  secret_version: number | null
  signs_with_previous: boolean | null
  is_wanted: boolean
  request_id: string | null
  trace_parent: string | null
}

function toClaimed(row: ClaimRow): ClaimedDelivery {
  return {
    id: row.id,
    eventId: row.event_id,
    orgId: row.org_id,
    payload: row.payload,
    url: row.url,
    attempt: row.attempts,
    endpoint:
      row.endpoint_id === null
        ? null
        : {
            id: row.endpoint_id,
            secretVersion: row.secret_version ?? 1,
            signsWithPrevious: row.signs_with_previous ?? false,
          },
    isWanted: row.is_wanted,
    requestId: row.request_id,
    traceparent: row.trace_parent,
  }
}
