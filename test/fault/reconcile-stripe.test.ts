import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { compareStripe } from '../../billing/reconcile/stripe.ts'
import { sealDue } from '../../billing/stripe/seal.ts'
import { sendDue } from '../../billing/stripe/send.ts'
import { startTopup } from '../../billing/stripe/topup.ts'
import { closePeriod, finalizeDue } from '../support/fake-stripe/invoicing.ts'
import { processMeterEvents } from '../support/fake-stripe/metering.ts'
import { payCheckout } from '../support/fake-stripe/payments.ts'
import { createBareTenant } from '../support/jobs.ts'
import { rewrite } from '../support/statement-world.ts'
import { HOUR_MS, openStripeWorld } from '../support/stripe-world.ts'
import type { StripeWorld } from '../support/stripe-world.ts'

let world: StripeWorld
beforeAll(async () => {
  world = await openStripeWorld()
})
afterAll(() => world.close())
beforeEach(() => world.fake.advance(3 * HOUR_MS))

const compare = () => compareStripe(world.deps, { days: 34 })

/** An org with so many images in an hour that Stripe was told of a while ago. */
async function tellHour(images: number) {
  const tenant = await world.createMetered()
  const hour = new Date(Math.floor(world.fake.state.nowMs / HOUR_MS) * HOUR_MS)
  await world.use(tenant, new Date(hour.getTime() + 60_000), images)
  world.fake.advance(HOUR_MS)
  await sealDue(world.deps)
  await sendDue(world.deps, { limit: 100 })
  processMeterEvents(world.fake.state)
  return { tenant, hour }
}

test('hours that Stripe holds as they were told are no difference, nor is one that was told just now', async () => {
  const { tenant } = await tellHour(3)
  // As if Stripe's summary still lagged behind.
  await world.db.sql`update meter_report set quantity = 9 where org_id = ${tenant.orgId}`
  expect(await compare()).toEqual([])
  await world.db.sql`update meter_report set quantity = 3 where org_id = ${tenant.orgId}`
  world.fake.advance(2 * HOUR_MS)
  expect(await compare()).toEqual([])
})

test('an hour that Stripe holds otherwise is told with both numbers, also one that we know nothing of', async () => {
  const { tenant, hour } = await tellHour(3)
  const other = await tellHour(5)
  world.fake.advance(2 * HOUR_MS)
  await world.db.sql`update meter_report set quantity = 4 where org_id = ${tenant.orgId}`
  await world.db.sql`
    update meter_report set hour = hour - interval '5 hours' where org_id = ${other.tenant.orgId}`
  const found = await compare()
  const before = new Date(other.hour.getTime() - 5 * HOUR_MS)
  const ids = (orgId: string, at: Date) => ({ org: orgId, hour: at.toISOString() })
  const hours = [
    { ids: ids(tenant.orgId, hour), expected: '4', found: '3' },
    { ids: ids(other.tenant.orgId, before), expected: '5', found: '0' },
    { ids: ids(other.tenant.orgId, other.hour), expected: '0', found: '5' },
  ]
  expect(found).toHaveLength(3)
  for (const one of hours) expect(found).toContainEqual({ check: 'stripe_hour', ...one })
  await world.db
    .sql`delete from meter_report where org_id in (${tenant.orgId}, ${other.tenant.orgId})`
})

test('an invoice with another amount or state is told; one whose news is on its way is not', async () => {
  const { tenant } = await tellHour(2)
  const [subscription] = await world.db.sql<{ id: string }[]>`
    select id from stripe_subscription where org_id = ${tenant.orgId}`
  const id = closePeriod(world.fake.state, subscription?.id ?? '')
  await world.deliver()
  world.fake.advance(2 * HOUR_MS)
  finalizeDue(world.fake.state)
  await world.deliver()
  const [row] = await world.db.sql<{ micros: bigint; state: string }[]>`
    select amount_micros as micros, state from invoice where id = ${id}`
  await world.db.sql`update invoice set amount_micros = 1, state = 'uncollectible' where id = ${id}`
  expect(await compare()).toEqual([])
  world.fake.advance(2 * HOUR_MS)
  expect(await compare()).toEqual([
    { check: 'stripe_invoice', ids: { invoice: id }, expected: '1', found: String(row?.micros) },
    {
      check: 'stripe_invoice_state',
      ids: { invoice: id },
      expected: 'uncollectible',
      found: row?.state,
    },
  ])
  await world.db.sql`
    update invoice set amount_micros = ${row?.micros ?? 0n}::bigint, state = ${row?.state ?? ''} where id = ${id}`
  expect(await compare()).toEqual([])
})

test('a payment that Stripe has and we have not, or have otherwise, is told', async () => {
  const { orgId } = await createBareTenant(world.db, { settlementMode: 'prepaid' })
  const started = await startTopup(world.deps, {
    orgId,
    amountMicros: 10_000_000n,
    successUrl: 'https://a.example/',
    cancelUrl: 'https://a.example/',
  })
  if (!started.ok) throw new Error(started.reason)
  payCheckout(world.fake.state, started.checkoutUrl.split('/').at(-1) ?? '')
  await world.deliver()
  // The row's own times are those of the database, not of the fake.
  const at = new Date(world.fake.state.nowMs)
  await world.db
    .sql`update topup set created_at = ${at}, settled_at = ${at} where id = ${started.topupId}`
  world.fake.advance(2 * HOUR_MS)
  expect(await compare()).toEqual([])
  await rewrite(world.db, async ({ sql }) => {
    await sql`update topup set amount_micros = 20000000 where id = ${started.topupId}`
  })
  const difference = { check: 'stripe_topup', found: '10000000' }
  expect(await compare()).toMatchObject([{ ...difference, expected: '20000000' }])
  await world.db.sql`update topup set state = 'failed' where id = ${started.topupId}`
  expect(await compare()).toMatchObject([
    { ...difference, expected: '0', ids: { topup: started.topupId, org: orgId } },
  ])
})
