import { withTransaction } from '../../db/client.ts'
import type { Db } from '../../db/client.ts'
import { createId } from '../../db/ids.ts'
import { grantCredit } from '../credit.ts'
import { failureOf, fromCents, idOf, toCents, toSeconds } from './client.ts'
import type { Stripe, StripeDeps } from './client.ts'
import { ensureCustomer } from './customer.ts'

export type TopupState = 'pending' | 'paid' | 'failed' | 'expired'

/** A payment ahead. */
export interface Topup {
  readonly id: string
  readonly kind: 'checkout' | 'auto'
  readonly state: TopupState
  readonly amountMicros: bigint
  readonly failureReason: string | null
  readonly createdAt: Date
  readonly settledAt: Date | null
}

/** Below it the fee of a card payment eats too much of it. */
export const MIN_TOPUP_MICROS = 5_000_000n
/** Stripe's own bound on one US dollar payment is 999,999.99; ours keeps a typing error small. */
export const MAX_TOPUP_MICROS = 50_000_000_000n
/** How long the checkout page is good for. Stripe allows 30 minutes to a day. */
const CHECKOUT_SECONDS = 3_600

export type StartTopupResult =
  | { ok: true; topupId: string; checkoutUrl: string; expiresAt: Date }
  /** Only prepaid orgs buy credit. */
  | { ok: false; reason: 'not_prepaid' }

/**
 * Opens a checkout page on which credit is bought. Each call opens one; nothing is credited before Stripe says
 * that the money came. The card is kept with Stripe, so that automatic top-ups can use it once they are switched on.
 *
 * @throws when Stripe does not answer; the row stays pending and no page is known to anybody
 */
export async function startTopup(
  deps: StripeDeps,
  input: { orgId: string; amountMicros: bigint; successUrl: string; cancelUrl: string },
): Promise<StartTopupResult> {
  const [org] = await deps.db.sql<{ mode: string }[]>`
    select settlement_mode as mode from org where id = ${input.orgId}`
  if (org?.mode !== 'prepaid') return { ok: false, reason: 'not_prepaid' }
  const customer = await ensureCustomer(deps, input.orgId)
  const topupId = createId('topup')
  await deps.db.sql`
    insert into topup (id, org_id, amount_micros, kind, state)
    values (${topupId}, ${input.orgId}, ${input.amountMicros}::bigint, 'checkout', 'pending')`
  const expiresAt = new Date(deps.now().getTime() + CHECKOUT_SECONDS * 1000)
  const metadata = { topup_id: topupId, org_id: input.orgId }
  const session = await deps.stripe.checkout.sessions.create(
    {
      mode: 'payment',
      customer,
      client_reference_id: input.orgId,
      line_items: [
        {
          quantity: 1,
          price_data: {
            currency: 'usd',
            unit_amount: toCents(input.amountMicros),
            product_data: { name: 'Prepaid credit for images' },
          },
        },
      ],
      metadata,
      payment_intent_data: { metadata, setup_future_usage: 'off_session' },
      success_url: input.successUrl,
      cancel_url: input.cancelUrl,
      expires_at: toSeconds(expiresAt),
    },
    { idempotencyKey: `topup:${topupId}` },
  )
  await deps.db.sql`
    update topup set checkout_session = ${session.id} where id = ${topupId} and checkout_session is null`
  if (session.url === null || session.url === undefined) {
    throw new Error(`checkout session ${session.id} came without an address`)
  }
  return { ok: true, topupId, checkoutUrl: session.url, expiresAt }
}

/** A page of an org's payments ahead, newest first. */
export async function listTopups(
  db: Db,
  input: { orgId: string; before?: string; limit: number },
): Promise<Topup[]> {
  return await db.sql<Topup[]>`
    select id, kind, state, amount_micros as "amountMicros", failure_reason as "failureReason",
           created_at as "createdAt", settled_at as "settledAt"
      from topup
     where org_id = ${input.orgId} and (${input.before ?? null}::text is null or id < ${input.before ?? null})
     order by id desc limit ${input.limit}`
}

/** Reads a checkout page's state from Stripe and follows it. Safe to repeat, in any order. */
export async function syncCheckout(deps: StripeDeps, sessionId: string): Promise<void> {
  const session = await deps.stripe.checkout.sessions.retrieve(sessionId, {
    expand: ['payment_intent'],
  })
  const topupId = session.metadata?.topup_id
  if (topupId === undefined || session.mode !== 'payment') return
  await deps.db.sql`
    update topup set checkout_session = ${session.id} where id = ${topupId} and checkout_session is null`
  const intent = session.payment_intent
  if (session.payment_status === 'paid' && intent !== null && typeof intent !== 'string') {
    await settlePayment(deps, topupId, intent)
  } else if (session.status === 'expired') {
    await endTopup(deps.db, topupId, 'expired', null)
  } else if (intent !== null && typeof intent !== 'string') {
    await followIntent(deps, topupId, intent)
  }
}

/** Reads a payment's state from Stripe and follows it; payments that are not ours are left alone. */
export async function syncPaymentIntent(deps: StripeDeps, intentId: string): Promise<void> {
  const intent = await deps.stripe.paymentIntents.retrieve(intentId)
  const topupId = intent.metadata.topup_id
  if (topupId !== undefined) await followIntent(deps, topupId, intent)
}

/** Brings a top-up to where its payment is. A checkout page may try several cards, so its failures are not final. */
export async function followIntent(
  deps: StripeDeps,
  topupId: string,
  intent: Stripe.PaymentIntent,
): Promise<void> {
  if (intent.status === 'succeeded') return settlePayment(deps, topupId, intent)
  const isOver = intent.status === 'canceled'
  const isRefused =
    intent.status === 'requires_payment_method' || intent.status === 'requires_action'
  const reason = intent.last_payment_error?.message ?? intent.status
  if (isOver || isRefused) {
    await deps.db.sql`
      update topup set state = 'failed', failure_reason = ${reason}, settled_at = now(),
                       payment_intent = coalesce(payment_intent, ${intent.id})
       where id = ${topupId} and state = 'pending' and (kind = 'auto' or ${isOver})`
  }
}

/** Ends a top-up without money; one that was paid stays paid. */
export async function endTopup(
  db: Db,
  topupId: string,
  state: 'failed' | 'expired',
  reason: string | null,
): Promise<void> {
  await db.sql`
    update topup set state = ${state}, failure_reason = ${reason}, settled_at = now()
     where id = ${topupId} and state = 'pending'`
}

/**
 * Credits a payment, once: the row's transition to paid and the credit commit together, and the credit's source is
 * the payment itself. Money that came after all also revives a top-up that had failed or expired.
 *
 * @throws when the payment is not what the row asked for; it is then looked at by a person
 */
async function settlePayment(
  deps: StripeDeps,
  topupId: string,
  intent: Stripe.PaymentIntent,
): Promise<void> {
  await withTransaction(deps.db, async (tx) => {
    const [topup] = await tx.sql<
      { orgId: string; amountMicros: bigint; state: TopupState; customerId: string | null }[]
    >`
      select t.org_id as "orgId", t.amount_micros as "amountMicros", t.state,
             o.stripe_customer_id as "customerId"
        from topup t join org o on o.id = t.org_id where t.id = ${topupId} for update of t`
    if (!topup || topup.state === 'paid') return
    const isAsAsked =
      intent.currency === 'usd' &&
      fromCents(intent.amount_received) === topup.amountMicros &&
      idOf(intent.customer) === topup.customerId
    if (!isAsAsked) throw new Error(`payment ${intent.id} is not what top-up ${topupId} asked for`)
    await tx.sql`
      update topup set state = 'paid', payment_intent = ${intent.id}, failure_reason = null, settled_at = now()
       where id = ${topupId}`
    await grantCredit(tx, {
      orgId: topup.orgId,
      amountMicros: topup.amountMicros,
      sourceId: intent.id,
    })
  })
}

/** A page nobody finished, or whose news was lost, is looked up after this. */
const LOST_AFTER_SECONDS = 2 * CHECKOUT_SECONDS
/** Stripe forgets nothing, but what it has no news of for this long is over. */
const GIVE_UP_AFTER_SECONDS = 7 * 86_400

/**
 * Looks up checkout pages of which no news came, so that a lost webhook loses no credit.
 *
 * @returns how many were looked up
 */
export async function syncStaleCheckouts(
  deps: StripeDeps,
  input: { limit: number },
): Promise<number> {
  const now = deps.now()
  const stale = await deps.db.sql<{ id: string; session: string | null; createdAt: Date }[]>`
    select id, checkout_session as session, created_at as "createdAt" from topup
     where kind = 'checkout' and state = 'pending'
       and coalesce(checked_at, created_at) <= ${now}::timestamptz - make_interval(secs => ${LOST_AFTER_SECONDS})
     order by coalesce(checked_at, created_at) limit ${input.limit}`
  for (const { id, session, createdAt } of stale) {
    await deps.db.sql`update topup set checked_at = ${now} where id = ${id}`
    if (session !== null) {
      try {
        await syncCheckout(deps, session)
      } catch (error) {
        if (failureOf(error).kind !== 'rejected') throw error
      }
    }
    const ageSeconds = (now.getTime() - createdAt.getTime()) / 1000
    if (session === null || ageSeconds > GIVE_UP_AFTER_SECONDS)
      await endTopup(deps.db, id, 'expired', 'no_payment')
  }
  return stale.length
}
