import { withTransaction } from '../../db/client.ts'
import type { Db } from '../../db/client.ts'
import { fromCents, idOf } from './client.ts'
import type { Stripe, StripeDeps } from './client.ts'
import { findOrgOfCustomer } from './customer.ts'

/** Refunds of one charge; Stripe's own page bound. */
const MAX_REFUNDS = 100

type DisputeState = 'open' | 'won' | 'lost'

/**
 * Reads a dispute from Stripe and follows it. While it is open its org is frozen; lost, the credit that the payment
 * bought is taken back, and what was already spent of it is owed. Safe to repeat, in any order.
 */
export async function syncDispute(deps: StripeDeps, disputeId: string): Promise<void> {
  const dispute = await deps.stripe.disputes.retrieve(disputeId, { expand: ['charge'] })
  const charge = typeof dispute.charge === 'string' ? null : dispute.charge
  const orgId = await findOrgOfCustomer(deps, idOf(charge?.customer))
  const paymentIntent = idOf(dispute.payment_intent)
  if (orgId === null || paymentIntent === null) return
  const state = toState(dispute.status)
  const amountMicros = fromCents(dispute.amount)
  await withTransaction(deps.db, async (tx) => {
    // A closed dispute stays closed, whatever an older reading says.
    await tx.sql`
      insert into dispute (id, org_id, payment_intent, amount_micros, state, closed_at)
      values (${dispute.id}, ${orgId}, ${paymentIntent}, ${amountMicros}::bigint, ${state},
              case when ${state === 'open'} then null else now() end)
      on conflict (id) do update set state = excluded.state, amount_micros = excluded.amount_micros,
                                     closed_at = excluded.closed_at
       where dispute.state = 'open'`
    if (state === 'lost') {
      await takeBack(tx, { orgId, amountMicros, sourceId: dispute.id, paymentIntent })
    }
    await tx.sql`select refresh_freeze(${orgId})`
  })
}

/** Reads a charge's refunds from Stripe and takes back the credit that each of them returned. Safe to repeat. */
export async function syncRefunds(deps: StripeDeps, chargeId: string): Promise<void> {
  const charge = await deps.stripe.charges.retrieve(chargeId)
  const orgId = await findOrgOfCustomer(deps, idOf(charge.customer))
  const paymentIntent = idOf(charge.payment_intent)
  if (orgId === null || paymentIntent === null) return
  const refunds = await deps.stripe.refunds
    .list({ charge: chargeId, limit: 100 })
    .autoPagingToArray({ limit: MAX_REFUNDS })
  await withTransaction(deps.db, async (tx) => {
    for (const refund of refunds) {
      if (refund.status !== 'succeeded') continue
      const amountMicros = fromCents(refund.amount)
      await takeBack(tx, { orgId, amountMicros, sourceId: refund.id, paymentIntent })
    }
    await tx.sql`select refresh_freeze(${orgId})`
  })
}

/** A prepaid org loses credit; a postpaid one owes again what it had paid. Once per source. */
async function takeBack(
  tx: Db,
  input: { orgId: string; amountMicros: bigint; sourceId: string; paymentIntent: string },
): Promise<void> {
  const { orgId, amountMicros, sourceId, paymentIntent } = input
  const [topup] = await tx.sql`
    select 1 from topup where payment_intent = ${paymentIntent} and org_id = ${orgId}`
  if (topup) {
    await tx.sql`select withdraw_credit(${orgId}, ${amountMicros}::bigint, ${sourceId}, ${paymentIntent})`
  } else {
    await tx.sql`
      select post_transfer('payment_returned', ${sourceId}, ${`receivable:${orgId}`}, 'clearing',
                           ${amountMicros}::bigint, 'posted')`
  }
}

/** Won, an inquiry that came to nothing, or one that was prevented: the money stays. */
const KEPT: readonly Stripe.Dispute.Status[] = ['won', 'warning_closed', 'prevented']

function toState(status: Stripe.Dispute.Status): DisputeState {
  if (status === 'lost') return 'lost'
  return KEPT.includes(status) ? 'won' : 'open'
}
