import { PRICE_LOOKUP_KEY, METER_EVENT_NAME } from './client.ts'
import type { StripeDeps } from './client.ts'

/**
 * The org's customer at Stripe, made when there is none. Safe to repeat and at once: a customer made twice after a
 * crash stays without payments, as the row names one of them for good.
 */
export async function ensureCustomer(deps: StripeDeps, orgId: string): Promise<string> {
  const [org] = await deps.db.sql<{ name: string; customerId: string | null }[]>`
    select name, stripe_customer_id as "customerId" from org where id = ${orgId}`
  if (!org) throw new Error(`there is no org ${orgId}`)
  if (org.customerId !== null) return org.customerId
  const customer = await deps.stripe.customers.create(
    { name: org.name, metadata: { org_id: orgId } },
    { idempotencyKey: `customer:${orgId}` },
  )
  const [row] = await deps.db.sql<{ customerId: string }[]>`
    update org set stripe_customer_id = coalesce(stripe_customer_id, ${customer.id}) where id = ${orgId}
    returning stripe_customer_id as "customerId"`
  return row?.customerId ?? customer.id
}

/** Whose customer this is; null for customers that are not ours. */
export async function findOrgOfCustomer(
  deps: StripeDeps,
  customerId: string | null,
): Promise<string | null> {
  if (customerId === null) return null
  const [org] = await deps.db.sql<{ id: string }[]>`
    select id from org where stripe_customer_id = ${customerId}`
  return org?.id ?? null
}

/** Meters are few; more than this means that the account is used for something else. */
const MAX_METERS = 1_000

/** The meter that `npm run stripe:setup` made. @throws when there is none */
export async function findMeterId(deps: Pick<StripeDeps, 'stripe'>): Promise<string> {
  const meters = deps.stripe.billing.meters.list({ limit: 100, status: 'active' })
  const found = (await meters.autoPagingToArray({ limit: MAX_METERS })).find(
    (meter) => meter.event_name === METER_EVENT_NAME,
  )
  if (!found) throw new Error(`There is no active meter ${METER_EVENT_NAME}: npm run stripe:setup`)
  return found.id
}

/** The metered price that `npm run stripe:setup` made. @throws when there is none */
export async function findPriceId(deps: Pick<StripeDeps, 'stripe'>): Promise<string> {
  const { data } = await deps.stripe.prices.list({ lookup_keys: [PRICE_LOOKUP_KEY], active: true })
  const [price] = data
  if (!price) throw new Error(`There is no price ${PRICE_LOOKUP_KEY}: npm run stripe:setup`)
  return price.id
}
