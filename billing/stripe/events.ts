import { failureOf, verifyWebhook } from './client.ts'
import type { StripeDeps } from './client.ts'
import { syncDispute, syncRefunds } from './disputes.ts'
import { syncInvoice } from './invoice.ts'
import { suspectWindows } from './reconcile.ts'
import { syncSubscription } from './subscription.ts'
import { syncCheckout, syncPaymentIntent } from './topup.ts'

export type ReceiveResult = 'stored' | 'repeated' | 'bad_signature'

/** A first repeat comes soon, the last ones an hour apart; with them an outage of days is outlived. */
const FIRST_RETRY_SECONDS = 10
const LAST_RETRY_SECONDS = 3_600
/** More than a week of tries; then the event stays, unapplied, for a person to look at. */
const MAX_ATTEMPTS = 200
/** Longer than applying takes; after it another process takes the event up. */
const LEASE_SECONDS = 120

/**
 * Checks who sent a webhook, and stores it by its id before anything else is done with it. Nothing is applied here:
 * Stripe gets its answer when the event is safe.
 */
export async function receiveEvent(
  deps: StripeDeps,
  input: { rawBody: string; signature: string },
): Promise<ReceiveResult> {
  const event = await verifyWebhook(deps, input.rawBody, input.signature)
  if (event === null) return 'bad_signature'
  const rows = await deps.db.sql`
    insert into stripe_event (id, type, payload, next_attempt_at)
    values (${event.id}, ${event.type}, ${event.payload}::text::jsonb, ${deps.now()})
    on conflict (id) do nothing returning id`
  return rows.length > 0 ? 'stored' : 'repeated'
}

interface DueEvent {
  id: string
  type: string
  attempts: number
  objectId: string | null
}

/**
 * Applies stored events that are due. An event only says what to look at: each reads the object from Stripe as it
 * is now and moves our rows forward, so order and repeats do not matter. One that fails is tried again later and
 * holds up no other.
 *
 * @returns how many were applied
 */
export async function applyDueEvents(deps: StripeDeps, input: { limit: number }): Promise<number> {
  const due = await deps.db.sql<DueEvent[]>`
    update stripe_event set attempts = attempts + 1,
           next_attempt_at = ${deps.now()}::timestamptz + make_interval(secs => ${LEASE_SECONDS})
     where id in (
       select id from stripe_event
        where applied_at is null and next_attempt_at <= ${deps.now()} and attempts < ${MAX_ATTEMPTS}
        order by next_attempt_at limit ${input.limit} for update skip locked)
    returning id, type, attempts, payload->'data'->'object'->>'id' as "objectId"`
  let applied = 0
  for (const event of due) {
    try {
      await applyEvent(deps, event)
      await deps.db.sql`
        update stripe_event set applied_at = ${deps.now()}, error = null where id = ${event.id} and applied_at is null`
      applied += 1
    } catch (error) {
      await postpone(deps, event, error instanceof Error ? error.message : String(error))
    }
  }
  return applied
}

async function postpone(deps: StripeDeps, event: DueEvent, error: string): Promise<void> {
  const seconds = Math.min(
    FIRST_RETRY_SECONDS * 2 ** Math.min(event.attempts - 1, 12),
    LAST_RETRY_SECONDS,
  )
  await deps.db.sql`
    update stripe_event set error = ${error},
           next_attempt_at = ${deps.now()}::timestamptz + make_interval(secs => ${seconds})
     where id = ${event.id} and applied_at is null`
  const level = event.attempts >= MAX_ATTEMPTS ? 'error' : 'warn'
  deps.log({ level, event: 'stripe_event_failed', id: event.id, type: event.type, error })
}

type Handler = (deps: StripeDeps, id: string) => Promise<void>

/** What each event asks to look at. Events that are not listed are kept and change nothing. */
const HANDLERS: Readonly<Record<string, Handler>> = {
  'checkout.session.completed': syncCheckout,
  'checkout.session.async_payment_succeeded': syncCheckout,
  'checkout.session.async_payment_failed': syncCheckout,
  'checkout.session.expired': syncCheckout,
  'payment_intent.succeeded': syncPaymentIntent,
  'payment_intent.payment_failed': syncPaymentIntent,
  'payment_intent.requires_action': syncPaymentIntent,
  'payment_intent.canceled': syncPaymentIntent,
  'invoice.created': syncInvoice,
  'invoice.updated': syncInvoice,
  'invoice.finalized': syncInvoice,
  'invoice.finalization_failed': syncInvoice,
  'invoice.paid': syncInvoice,
  'invoice.payment_failed': syncInvoice,
  'invoice.payment_action_required': syncInvoice,
  'invoice.voided': syncInvoice,
  'invoice.marked_uncollectible': syncInvoice,
  'invoice.overdue': syncInvoice,
  'customer.subscription.created': syncSubscription,
  'customer.subscription.updated': syncSubscription,
  'customer.subscription.deleted': syncSubscription,
  'customer.subscription.paused': syncSubscription,
  'customer.subscription.resumed': syncSubscription,
  'charge.refunded': syncRefunds,
  'charge.dispute.created': syncDispute,
  'charge.dispute.updated': syncDispute,
  'charge.dispute.closed': syncDispute,
}

/** Thin events: they carry no object, and are read from the API by their own id. */
const METER_EVENTS = [
  'v1.billing.meter.error_report_triggered',
  'v1.billing.meter.no_meter_found',
] as const

/** What an endpoint has to be subscribed to. */
export const SNAPSHOT_EVENTS: readonly string[] = Object.keys(HANDLERS)
export const THIN_EVENTS: readonly string[] = METER_EVENTS

async function applyEvent(deps: StripeDeps, event: DueEvent): Promise<void> {
  if (THIN_EVENTS.includes(event.type)) return applyMeterErrors(deps, event.id)
  const handler = HANDLERS[event.type]
  if (handler === undefined || event.objectId === null) return
  try {
    await handler(deps, event.objectId)
  } catch (error) {
    // What is gone at Stripe, such as a deleted draft, has nothing more to say.
    if (isGone(error)) return
    throw error
  }
}

async function applyMeterErrors(deps: StripeDeps, eventId: string): Promise<void> {
  const event = await deps.stripe.v2.core.events.retrieve(eventId)
  if (
    event.type !== 'v1.billing.meter.error_report_triggered' &&
    event.type !== 'v1.billing.meter.no_meter_found'
  ) {
    return
  }
  const { data } = event
  const identifiers = data.reason.error_types.flatMap(({ sample_errors: samples }) =>
    samples.map(({ request }) => request.identifier),
  )
  const windows = await suspectWindows(deps, {
    from: new Date(data.validation_start),
    to: new Date(data.validation_end),
    identifiers,
  })
  deps.log({
    level: 'error',
    event: 'meter_events_rejected',
    id: eventId,
    errors: data.reason.error_count,
    windows,
    summary: data.developer_message_summary,
  })
}

function isGone(error: unknown): boolean {
  try {
    const failure = failureOf(error)
    return failure.kind === 'rejected' && failure.code === 'resource_missing'
  } catch {
    return false
  }
}
