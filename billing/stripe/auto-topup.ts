import { createId } from '../../db/ids.ts'
import type { Db } from '../../db/client.ts'
import { KEY_TRUST_MS, failureOf, idOf, toCents } from './client.ts'
import type { Stripe, StripeDeps } from './client.ts'
import { endTopup, followIntent } from './topup.ts'

/** After a card was refused, nobody is asked again for this long. */
const RETRY_AFTER_SECONDS = 6 * 3_600
/** As many refusals in a row switch automatic payments off: the card will not get better by itself. */
const MAX_FAILURES = 3
/** A payment whose answer did not come is looked up after this. */
const LOOK_UP_AFTER_SECONDS = 120
/** Payments of one customer that are searched for one whose answer was lost. */
const MAX_INTENTS = 100

export interface AutoTopup {
  readonly belowMicros: bigint
  readonly amountMicros: bigint
}

/** What an org has set; null = off. */
export async function readAutoTopup(db: Db, orgId: string): Promise<AutoTopup | null> {
  const [row] = await db.sql<{ below: bigint | null; amount: bigint | null }[]>`
    select auto_topup_below_micros as below, auto_topup_micros as amount from org where id = ${orgId}`
  if (!row || row.below === null || row.amount === null) return null
  return { belowMicros: row.below, amountMicros: row.amount }
}

/** Sets or, with null, switches off. @returns false when the org is not prepaid */
export async function setAutoTopup(
  db: Db,
  orgId: string,
  setting: AutoTopup | null,
): Promise<boolean> {
  const rows = await db.sql`
    update org set auto_topup_below_micros = ${setting?.belowMicros ?? null}::bigint,
                   auto_topup_micros = ${setting?.amountMicros ?? null}::bigint,
                   auto_topup_set_at = now()
     where id = ${orgId} and (settlement_mode = 'prepaid' or ${setting === null})
    returning id`
  return rows.length > 0
}

/**
 * Buys credit for every org that has fallen below its mark. One payment per org at a time, by a unique key; its
 * amount is the org's own setting. A frozen org buys nothing.
 *
 * @returns how many payments were started
 */
export async function startDueAutoTopups(
  deps: StripeDeps,
  input: { limit: number },
): Promise<number> {
  const due = await deps.db.sql<{ orgId: string; amountMicros: bigint }[]>`
    select o.id as "orgId", o.auto_topup_micros as "amountMicros"
      from org o join budget b on b.scope = 'org' and b.scope_id = o.id and b.kind = 'balance'
     where o.settlement_mode = 'prepaid' and o.auto_topup_micros is not null and o.frozen_at is null
       and o.stripe_customer_id is not null
       and b.limit_micros - b.held_micros - b.spent_micros < o.auto_topup_below_micros
       and not exists (select 1 from topup t where t.org_id = o.id and t.kind = 'auto'
             and (t.state = 'pending' or (t.state = 'failed' and t.settled_at > coalesce(o.auto_topup_set_at, '-infinity')
                  and t.settled_at > ${deps.now()}::timestamptz - make_interval(secs => ${RETRY_AFTER_SECONDS}))))
     order by o.id limit ${input.limit}`
  let started = 0
  for (const { orgId, amountMicros } of due) {
    const topupId = createId('topup')
    const rows = await deps.db.sql`
      insert into topup (id, org_id, amount_micros, kind, state)
      values (${topupId}, ${orgId}, ${amountMicros}::bigint, 'auto', 'pending')
      on conflict do nothing returning id`
    if (rows.length === 0) continue
    started += 1
    await pay(deps, topupId)
  }
  return started
}

/**
 * Finds out what became of automatic payments without an answer, by looking for them at Stripe; one that is not
 * there is made again under its first key.
 *
 * @returns how many were looked up
 */
export async function resolveAutoTopups(
  deps: StripeDeps,
  input: { limit: number },
): Promise<number> {
  const now = deps.now()
  const open = await deps.db.sql<{ id: string; customer: string; createdAt: Date }[]>`
    select t.id, o.stripe_customer_id as customer, t.created_at as "createdAt"
      from topup t join org o on o.id = t.org_id
     where t.kind = 'auto' and t.state = 'pending'
       and coalesce(t.checked_at, t.created_at) <= ${now}::timestamptz - make_interval(secs => ${LOOK_UP_AFTER_SECONDS})
     order by coalesce(t.checked_at, t.created_at) limit ${input.limit}`
  for (const { id, customer, createdAt } of open) {
    await deps.db.sql`update topup set checked_at = ${now} where id = ${id}`
    const intents = await deps.stripe.paymentIntents
      .list({ customer, limit: 100 })
      .autoPagingToArray({ limit: MAX_INTENTS })
    const found = intents.find((intent) => intent.metadata.topup_id === id)
    if (found) await followIntent(deps, id, found)
    // Beyond the life of the key a repeat could be a second payment; the search has shown that there is no first.
    else if (now.getTime() - createdAt.getTime() > KEY_TRUST_MS)
      await endTopup(deps.db, id, 'failed', 'no_payment')
    else await pay(deps, id)
  }
  return open.length
}

async function pay(deps: StripeDeps, topupId: string): Promise<void> {
  const [topup] = await deps.db.sql<{ orgId: string; amountMicros: bigint; customer: string }[]>`
    select t.org_id as "orgId", t.amount_micros as "amountMicros", o.stripe_customer_id as customer
      from topup t join org o on o.id = t.org_id where t.id = ${topupId} and t.state = 'pending'`
  if (!topup) return
  try {
    const method = await findPaymentMethod(deps, topup.customer)
    if (method === null) {
      await failTopup(deps, topupId, topup.orgId, 'no_payment_method')
      return
    }
    const intent = await deps.stripe.paymentIntents.create(
      {
        amount: toCents(topup.amountMicros),
        currency: 'usd',
        customer: topup.customer,
        payment_method: method,
        off_session: true,
        confirm: true,
        description: 'Prepaid credit for images, bought automatically',
        metadata: { topup_id: topupId, org_id: topup.orgId },
      },
      { idempotencyKey: `topup:${topupId}` },
    )
    await followIntent(deps, topupId, intent)
  } catch (error) {
    const failure = failureOf(error)
    // 402 is the bank's no. What is unknown or busy stays pending and is looked up.
    if (failure.kind === 'rejected') await failTopup(deps, topupId, topup.orgId, failure.message)
    deps.log({
      level: 'warn',
      event: 'auto_topup_failed',
      org_id: topup.orgId,
      topup_id: topupId,
      kind: failure.kind,
      error: failure.message,
    })
  }
}

async function failTopup(
  deps: StripeDeps,
  topupId: string,
  orgId: string,
  reason: string,
): Promise<void> {
  await endTopup(deps.db, topupId, 'failed', reason)
  await deps.db.sql`
    update org set auto_topup_below_micros = null, auto_topup_micros = null
     where id = ${orgId} and ${MAX_FAILURES}::int <= (
       select count(*) from topup t
        where t.org_id = ${orgId} and t.kind = 'auto' and t.state = 'failed'
          and t.settled_at > coalesce(org.auto_topup_set_at, '-infinity')
          and not exists (select 1 from topup p where p.org_id = t.org_id and p.state = 'paid'
                             and p.settled_at > t.settled_at))`
}

/** The customer's own choice, else the card of the last payment. */
async function findPaymentMethod(deps: StripeDeps, customerId: string): Promise<string | null> {
  const customer = await deps.stripe.customers.retrieve(customerId)
  if (isDeleted(customer)) return null
  const chosen = idOf(customer.invoice_settings.default_payment_method)
  if (chosen !== null) return chosen
  const { data } = await deps.stripe.customers.listPaymentMethods(customerId, { limit: 1 })
  return data[0]?.id ?? null
}

function isDeleted(
  customer: Stripe.Customer | Stripe.DeletedCustomer,
): customer is Stripe.DeletedCustomer {
  return customer.deleted === true
}
