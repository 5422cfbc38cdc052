import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { checkDrafts, syncInvoice } from '../../billing/stripe/invoice.ts'
import { reconcileDue } from '../../billing/stripe/reconcile.ts'
import { runStripe } from '../../billing/stripe/run.ts'
import { sealDue } from '../../billing/stripe/seal.ts'
import { sendDue } from '../../billing/stripe/send.ts'
import { subscribe } from '../../billing/stripe/subscription.ts'
import {
  cancelSubscription,
  closePeriod,
  finalizeDue,
  setInvoice,
} from '../support/fake-stripe/invoicing.ts'
import { processMeterEvents } from '../support/fake-stripe/metering.ts'
import { createBareTenant } from '../support/jobs.ts'
import type { BareTenant } from '../support/jobs.ts'
import { HOUR_MS, openStripeWorld } from '../support/stripe-world.ts'
import type { StripeWorld } from '../support/stripe-world.ts'

let world: StripeWorld

beforeAll(async () => {
  world = await openStripeWorld()
})
afterAll(() => world.close())

const hourOf = (ms: number) => new Date(Math.floor(ms / HOUR_MS) * HOUR_MS)
const told = async () => {
  await sealDue(world.deps)
  await sendDue(world.deps, { limit: 100 })
  processMeterEvents(world.fake.state)
}
const subscriptionOf = async ({ orgId }: BareTenant) => {
  const [row] = await world.db.sql<
    { id: string }[]
  >`select id from stripe_subscription where org_id = ${orgId}`
  return row?.id ?? ''
}
const invoiceOf = async (id: string) => {
  const [row] = await world.db.sql<
    { state: string; problem: string | null; amountMicros: bigint; expectedMicros: bigint | null }[]
  >`
    select state, problem, amount_micros as "amountMicros", expected_micros as "expectedMicros" from invoice where id = ${id}`
  return row
}
const postedOn = async (account: string, kind?: string) => {
  const [row] = await world.db.sql<{ sum: bigint }[]>`
    select coalesce(sum(e.amount_micros), 0)::bigint as sum from ledger_entry e join ledger_txn t on t.id = e.txn_id
     where e.account_id = ${account} and (${kind ?? null}::text is null or t.kind = ${kind ?? null})`
  return row?.sum ?? 0n
}

/** A metered org with images in an hour that has closed, told or not, and its period at an end. */
async function usedAnHour(images: number, net = 15_000n) {
  const tenant = await world.createMetered()
  const hour = hourOf(world.fake.state.nowMs)
  await world.use(tenant, new Date(hour.getTime() + 60_000), images, net)
  world.fake.advance(HOUR_MS)
  return { tenant, hour }
}

describe('an invoice', () => {
  test('that agrees with our books goes its way, and its half cent is posted as rounding', async () => {
    const { tenant } = await usedAnHour(3)
    await told()
    const id = closePeriod(world.fake.state, await subscriptionOf(tenant))
    await world.deliver()
    expect(await invoiceOf(id)).toMatchObject({
      state: 'draft',
      problem: null,
      expectedMicros: 45_000n,
    })
    world.fake.advance(HOUR_MS)
    finalizeDue(world.fake.state)
    const before = await postedOn('rounding')
    await world.deliver((events) => [...events.toReversed(), ...events])
    expect(await invoiceOf(id)).toMatchObject({
      state: 'paid',
      problem: null,
      amountMicros: 50_000n,
    })
    // 4.5 cents were billed as 5: half a cent more is owed, and not earned by images.
    expect((await postedOn('rounding')) - before).toBe(-5_000n)
    const receivable = `receivable:${tenant.orgId}`
    expect(await postedOn(receivable, 'rounding')).toBe(5_000n)
    expect(await postedOn(receivable, 'invoice_payment')).toBe(-50_000n)
  })

  test('that lacks usage is held, and released when the meter has it', async () => {
    const { tenant } = await usedAnHour(4)
    const id = closePeriod(world.fake.state, await subscriptionOf(tenant))
    await world.deliver()
    expect(await invoiceOf(id)).toMatchObject({ state: 'held' })
    expect((await invoiceOf(id))?.problem).toContain('counts 0 images, our books 4')
    world.fake.advance(5 * HOUR_MS)
    finalizeDue(world.fake.state)
    expect(world.fake.state.invoices.get(id)?.status).toBe('draft')
    await told()
    await checkDrafts(world.deps, { limit: 10 })
    expect(await invoiceOf(id)).toMatchObject({ state: 'draft', problem: null })
    world.fake.advance(11 * 60_000)
    finalizeDue(world.fake.state)
    await world.deliver()
    expect(await invoiceOf(id)).toMatchObject({ state: 'paid', amountMicros: 60_000n })
  })

  test('is released as soon as its books agree, also when who held it died before writing that down', async () => {
    const { tenant } = await usedAnHour(4)
    const id = closePeriod(world.fake.state, await subscriptionOf(tenant))
    await world.db.sql`alter table recon_run rename to recon_run_away`
    await expect(syncInvoice(world.deps, id)).rejects.toThrow('recon_run')
    await world.db.sql`alter table recon_run_away rename to recon_run`
    expect(await invoiceOf(id)).toBeUndefined()
    await told()
    await world.deliver()
    expect(await invoiceOf(id)).toMatchObject({ state: 'draft', problem: null })
    world.fake.advance(HOUR_MS)
    finalizeDue(world.fake.state)
    await world.deliver()
    expect(await invoiceOf(id)).toMatchObject({ state: 'paid', amountMicros: 60_000n })
  })

  test('stays held for as long as the books disagree', async () => {
    const { tenant } = await usedAnHour(2)
    const id = closePeriod(world.fake.state, await subscriptionOf(tenant))
    await world.deliver()
    for (let day = 0; day < 6; day++) {
      world.fake.advance(24 * HOUR_MS)
      finalizeDue(world.fake.state)
      await checkDrafts(world.deps, { limit: 10 })
    }
    expect(world.fake.state.invoices.get(id)?.status).toBe('draft')
    const runs = await world.db.sql`select 1 from recon_run where scope = ${`invoice:${id}`}`
    expect(runs).toHaveLength(1)
    await told()
    world.fake.advance(HOUR_MS)
    await checkDrafts(world.deps, { limit: 10 })
    world.fake.advance(HOUR_MS)
    finalizeDue(world.fake.state)
    await world.deliver()
    expect(await invoiceOf(id)).toMatchObject({ state: 'paid' })
  })

  test('of an org with a contract price is brought to that price before it goes', async () => {
    const { tenant } = await usedAnHour(100, 12_000n)
    await told()
    const id = closePeriod(world.fake.state, await subscriptionOf(tenant))
    await world.deliver()
    expect(await invoiceOf(id)).toMatchObject({ state: 'held' })
    world.fake.advance(10 * 60_000)
    await checkDrafts(world.deps, { limit: 10 })
    expect(await invoiceOf(id)).toMatchObject({
      state: 'draft',
      problem: null,
      amountMicros: 1_200_000n,
    })
    world.fake.advance(HOUR_MS)
    finalizeDue(world.fake.state)
    await world.deliver()
    expect(await invoiceOf(id)).toMatchObject({ state: 'paid', amountMicros: 1_200_000n })
    const items = [...world.fake.state.items.values()].filter((item) => item.invoice === id)
    expect(items.map((item) => item.amount)).toEqual([-30])
  })

  test('that somebody else has adjusted by an older look too is brought back, to the cent', async () => {
    const { tenant } = await usedAnHour(100, 12_000n)
    await told()
    const id = closePeriod(world.fake.state, await subscriptionOf(tenant))
    await world.deliver()
    const customer = world.fake.state.invoices.get(id)?.customer ?? ''
    await world.deps.stripe.invoiceItems.create({
      customer,
      invoice: id,
      currency: 'usd',
      amount: -2,
      metadata: { adjusts_invoice: id },
    })
    for (let look = 0; look < 2; look++) {
      world.fake.advance(10 * 60_000)
      await checkDrafts(world.deps, { limit: 10 })
    }
    expect(await invoiceOf(id)).toMatchObject({
      state: 'draft',
      problem: null,
      amountMicros: 1_200_000n,
    })
    const items = [...world.fake.state.items.values()].filter((item) => item.invoice === id)
    expect(items.map((item) => item.amount)).toEqual([-30, -2, 2])
  })

  test('that is final takes no more usage: a refund goes on the next one', async () => {
    const { tenant, hour } = await usedAnHour(4)
    await told()
    const subscription = await subscriptionOf(tenant)
    closePeriod(world.fake.state, subscription)
    await world.deliver()
    world.fake.advance(HOUR_MS)
    finalizeDue(world.fake.state)
    await world.deliver()
    await world.refundImage(tenant, hour)
    await world.refundImage(tenant, hour)
    await told()
    expect((await world.reportsOf(tenant.orgId)).map((row) => row.channel)).toEqual([
      'meter',
      'invoice_item',
    ])
    const next = closePeriod(world.fake.state, subscription)
    await world.deliver()
    expect(await invoiceOf(next)).toMatchObject({ problem: null, amountMicros: -30_000n })
  })

  test('that is not paid freezes its org until it is, also when it was given up', async () => {
    const { tenant } = await usedAnHour(2)
    await told()
    const id = closePeriod(world.fake.state, await subscriptionOf(tenant))
    world.fake.advance(HOUR_MS)
    finalizeDue(world.fake.state, 'fails')
    await world.deliver()
    const frozen = async () =>
      (
        await world.db.sql<
          { reason: string | null }[]
        >`select frozen_reason as reason from org where id = ${tenant.orgId}`
      )[0]?.reason
    expect(await frozen()).toBe('unpaid_invoice')
    setInvoice(world.fake.state, id, 'uncollectible')
    await world.deliver()
    expect(await frozen()).toBe('unpaid_invoice')
    expect(await postedOn(`receivable:${tenant.orgId}`, 'write_off')).toBe(-30_000n)
    setInvoice(world.fake.state, id, 'paid')
    await world.deliver()
    expect(await frozen()).toBeNull()
    expect(await postedOn('write_off')).toBe(0n)
  })
})

describe('an org without a subscription', () => {
  test('gets one invoice of its month, with what our books say, however often answers are lost', async () => {
    const tenant = await createBareTenant(world.db, { settlementMode: 'postpaid' })
    await world.use(tenant, world.deps.now(), 7, 12_000n)
    const now = world.deps.now()
    const month = Date.UTC(now.getUTCFullYear(), now.getUTCMonth() + 1, 1, 2)
    world.fake.advance(month - now.getTime())
    let calls = 0
    world.fake.fault = ({ method, path }) => {
      const isMoney = method === 'POST' && ['/v1/invoiceitems', '/v1/invoices'].includes(path)
      if (!isMoney) return 'none'
      calls += 1
      return calls % 2 === 1 ? 'lost-answer' : 'none'
    }
    for (let round = 0; round < 8; round++) {
      await runStripe(world.deps)
      await world.deliver((events) => [...events, ...events])
      world.fake.advance(HOUR_MS)
    }
    world.fake.fault = () => 'none'
    const customer = await world.customerOf(tenant.orgId)
    const invoices = [...world.fake.state.invoices.values()].filter(
      (one) => one.customer === customer,
    )
    expect(invoices).toHaveLength(1)
    finalizeDue(world.fake.state)
    await world.deliver()
    // 7 images at 1.2 cents are 8.4 cents.
    expect(await invoiceOf(invoices[0]?.id ?? '')).toMatchObject({
      state: 'paid',
      amountMicros: 80_000n,
      expectedMicros: 84_000n,
    })
    expect((await world.reportsOf(tenant.orgId)).map((row) => `${row.meter} ${row.state}`)).toEqual(
      ['items confirmed'],
    )
  })
})

describe('a subscription', () => {
  test('is one for an org, and for postpaid ones alone', async () => {
    const tenant = await createBareTenant(world.db, { settlementMode: 'postpaid' })
    const start = () => subscribe(world.deps, { orgId: tenant.orgId, collection: 'send_invoice' })
    const results = await Promise.allSettled([start(), start()])
    await world.deliver((events) => [...events, ...events])
    expect(await start()).toMatchObject({ ok: true, isNew: false })
    expect(results.some(({ status }) => status === 'fulfilled')).toBe(true)
    const customer = await world.customerOf(tenant.orgId)
    const made = [...world.fake.state.subscriptions.values()].filter(
      (one) => one.customer === customer,
    )
    expect(made).toHaveLength(1)
    const prepaid = await createBareTenant(world.db, { settlementMode: 'prepaid' })
    expect(
      await subscribe(world.deps, { orgId: prepaid.orgId, collection: 'send_invoice' }),
    ).toEqual({
      ok: false,
      reason: 'not_postpaid',
    })
  })

  test('that ended leaves no image out and bills none twice', async () => {
    const { tenant } = await usedAnHour(5)
    await told()
    const subscription = await subscriptionOf(tenant)
    // An hour that the end cuts, with usage before and after it.
    world.fake.advance(HOUR_MS - (world.fake.state.nowMs % HOUR_MS) + HOUR_MS / 2)
    await world.use(tenant, new Date(world.fake.state.nowMs - 60_000), 2)
    cancelSubscription(world.fake.state, subscription)
    await world.deliver()
    world.fake.advance(60_000)
    await world.use(tenant, world.deps.now(), 4)
    const now = world.deps.now()
    world.fake.advance(Date.UTC(now.getUTCFullYear(), now.getUTCMonth() + 1, 1, 2) - now.getTime())
    await told()
    await reconcileDue(world.deps, { limit: 100 })
    const reports = await world.reportsOf(tenant.orgId)
    expect(reports.map((row) => `${row.meter} ${row.quantity}`)).toEqual(['images 5', 'items 6'])
  })
})

// The last one here: the clock that all share goes on by a month.
test('an invoice that was held until the meter takes no more of its usage goes, and the rest goes on the next one', async () => {
  const { tenant, hour } = await usedAnHour(4)
  // An hour is told some minutes after its end; a call goes through some days of them.
  world.fake.advance(10 * 60_000)
  for (let call = 0; call < 5; call++) await told()
  const id = closePeriod(world.fake.state, await subscriptionOf(tenant))
  await world.refundImage(tenant, hour)
  await world.deliver()
  for (let day = 0; day < 35; day++) {
    world.fake.advance(24 * HOUR_MS)
    finalizeDue(world.fake.state)
    await checkDrafts(world.deps, { limit: 10 })
  }
  expect((await invoiceOf(id))?.problem).toContain('counts 4 images, our books 3')
  for (let call = 0; call < 5; call++) await told()
  expect((await world.reportsOf(tenant.orgId)).map((row) => row.channel)).toEqual([
    'meter',
    'invoice_item',
  ])
  world.fake.advance(HOUR_MS)
  await checkDrafts(world.deps, { limit: 10 })
  world.fake.advance(HOUR_MS)
  finalizeDue(world.fake.state)
  await world.deliver()
  expect(await invoiceOf(id)).toMatchObject({ state: 'paid', amountMicros: 60_000n })
  const customer = await world.customerOf(tenant.orgId)
  const waiting = [...world.fake.state.items.values()].filter(
    (item) => item.customer === customer && item.invoice === null,
  )
  expect(waiting.map((item) => item.amount)).toEqual([-1])
})
