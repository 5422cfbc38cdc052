import { idOf, toSeconds } from './client.ts'
import type { Stripe, StripeDeps } from './client.ts'
import { ensureCustomer, findOrgOfCustomer, findPriceId } from './customer.ts'
import { startOfHour } from './seal.ts'

const HOUR_MS = 3_600_000
/** How long a customer that pays by transfer has. */
const DAYS_UNTIL_DUE = 30

export type SubscribeResult =
  | { ok: true; subscriptionId: string; isNew: boolean }
  /** Prepaid usage is paid and internal usage charged back: neither may meet a meter. */
  | { ok: false; reason: 'not_postpaid' }

/**
 * Puts a postpaid org on the metered price, billed by calendar month (UTC). Safe to repeat: an org has one living
 * subscription. Usage from the next full hour on goes to the meter; what came before is invoiced as items.
 */
export async function subscribe(
  deps: StripeDeps,
  input: { orgId: string; collection: 'charge_automatically' | 'send_invoice' },
): Promise<SubscribeResult> {
  const [org] = await deps.db.sql<{ mode: string; live: string | null }[]>`
    select o.settlement_mode as mode, s.id as live
      from org o left join stripe_subscription s on s.org_id = o.id and s.metered_to is null
     where o.id = ${input.orgId}`
  if (org?.mode !== 'postpaid') return { ok: false, reason: 'not_postpaid' }
  if (org.live !== null) return { ok: true, subscriptionId: org.live, isNew: false }
  const customer = await ensureCustomer(deps, input.orgId)
  const now = deps.now()
  const nextMonth = new Date(Date.UTC(now.getUTCFullYear(), now.getUTCMonth() + 1, 1))
  const subscription = await deps.stripe.subscriptions.create(
    {
      customer,
      items: [{ price: await findPriceId(deps) }],
      // On an hour, so that no window of the meter lies in two invoices.
      billing_cycle_anchor: toSeconds(nextMonth),
      collection_method: input.collection,
      ...(input.collection === 'send_invoice' ? { days_until_due: DAYS_UNTIL_DUE } : {}),
      metadata: { org_id: input.orgId },
    },
    { idempotencyKey: `subscription:${input.orgId}:${startOfHour(now).toISOString()}` },
  )
  await keep(deps, input.orgId, subscription)
  return { ok: true, subscriptionId: subscription.id, isNew: true }
}

/** Reads a subscription from Stripe and follows it. Safe to repeat, in any order. */
export async function syncSubscription(deps: StripeDeps, subscriptionId: string): Promise<void> {
  const subscription = await deps.stripe.subscriptions.retrieve(subscriptionId)
  const orgId = await findOrgOfCustomer(deps, idOf(subscription.customer))
  const [org] = await deps.db.sql<{ mode: string }[]>`
    select settlement_mode as mode from org where id = ${orgId}`
  if (orgId === null || subscription.metadata.org_id !== orgId || org?.mode !== 'postpaid') return
  await keep(deps, orgId, subscription)
}

/**
 * Metered from the first full hour to the last begun one. An hour that the end cuts is invoiced as an item, as is
 * everything after; a subscription that has ended never lives again.
 */
async function keep(
  deps: StripeDeps,
  orgId: string,
  subscription: Stripe.Subscription,
): Promise<void> {
  const from = new Date(
    startOfHour(new Date(subscription.start_date * 1000 - 1)).getTime() + HOUR_MS,
  )
  const endedAt = subscription.ended_at
  const end = endedAt === null ? null : startOfHour(new Date(endedAt * 1000))
  const to = end === null || end > from ? end : from
  await deps.db.sql`
    insert into stripe_subscription (id, org_id, status, metered_from, metered_to)
    values (${subscription.id}, ${orgId}, ${subscription.status}, ${from}, ${to})
    on conflict (id) do update set status = excluded.status, metered_to = excluded.metered_to, updated_at = now()
     where stripe_subscription.metered_to is null`
}

/** A page of Stripe's on which the org sees invoices and changes cards. @returns its address, good for minutes */
export async function openPortal(
  deps: StripeDeps,
  input: { orgId: string; returnUrl: string },
): Promise<string> {
  const customer = await ensureCustomer(deps, input.orgId)
  const session = await deps.stripe.billingPortal.sessions.create({
    customer,
    return_url: input.returnUrl,
  })
  return session.url
}
