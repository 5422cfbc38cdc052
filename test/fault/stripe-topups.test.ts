import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  resolveAutoTopups,
  setAutoTopup,
  startDueAutoTopups,
} from '../../billing/stripe/auto-topup.ts'
import { writeOff } from '../../billing/refund.ts'
import { startTopup, syncStaleCheckouts } from '../../billing/stripe/topup.ts'
import { checkBooks } from '../support/books.ts'
import {
  closeDispute,
  expireCheckout,
  openDispute,
  payCheckout,
  refund,
  settleCheckout,
} from '../support/fake-stripe/payments.ts'
import { createBareTenant, reserve } from '../support/jobs.ts'
import { HOUR_MS, openStripeWorld } from '../support/stripe-world.ts'
import type { StripeWorld } from '../support/stripe-world.ts'

let world: StripeWorld
const TEN_USD = 10_000_000n

beforeAll(async () => {
  world = await openStripeWorld()
})
afterAll(() => world.close())

const prepaid = () => createBareTenant(world.db, { settlementMode: 'prepaid' })

async function open(orgId: string, amountMicros = TEN_USD) {
  const started = await startTopup(world.deps, {
    orgId,
    amountMicros,
    successUrl: 'https://a.example/',
    cancelUrl: 'https://a.example/',
  })
  if (!started.ok) throw new Error(started.reason)
  const id = started.checkoutUrl.split('/').at(-1) ?? ''
  return { topupId: started.topupId, session: id }
}

async function creditOf(orgId: string): Promise<bigint> {
  const [row] = await world.db.sql<{ credit: bigint }[]>`
    select limit_micros as credit from budget where scope = 'org' and scope_id = ${orgId} and kind = 'balance'`
  return row?.credit ?? -1n
}

const topupOf = async (id: string) => {
  const [row] = await world.db.sql<{ state: string; failure: string | null }[]>`
    select state, failure_reason as failure from topup where id = ${id}`
  return row
}

const frozenOf = async (orgId: string) => {
  const [row] = await world.db.sql<{ reason: string | null }[]>`
    select frozen_reason as reason from org where id = ${orgId}`
  return row?.reason
}

describe('a top-up', () => {
  test('is credited when its payment has come, and not before', async () => {
    const { orgId } = await prepaid()
    const { topupId, session } = await open(orgId)
    expect(await creditOf(orgId)).toBe(0n)
    payCheckout(world.fake.state, session)
    await world.deliver()
    expect(await topupOf(topupId)).toMatchObject({ state: 'paid' })
    expect(await creditOf(orgId)).toBe(TEN_USD)
  })

  test('by bank debit is credited when the bank has paid', async () => {
    const { orgId } = await prepaid()
    const { topupId, session } = await open(orgId)
    payCheckout(world.fake.state, session, 'later')
    await world.deliver()
    expect(await topupOf(topupId)).toMatchObject({ state: 'pending' })
    expect(await creditOf(orgId)).toBe(0n)
    settleCheckout(world.fake.state, session, true)
    await world.deliver()
    expect(await creditOf(orgId)).toBe(TEN_USD)
  })

  test('whose debit bounced, or whose page ran out, is credited nothing', async () => {
    const { orgId } = await prepaid()
    const bounced = await open(orgId)
    payCheckout(world.fake.state, bounced.session, 'later')
    settleCheckout(world.fake.state, bounced.session, false)
    const left = await open(orgId)
    expireCheckout(world.fake.state, left.session)
    await world.deliver()
    expect(await topupOf(bounced.topupId)).toMatchObject({ state: 'failed' })
    expect(await topupOf(left.topupId)).toMatchObject({ state: 'expired' })
    expect(await creditOf(orgId)).toBe(0n)
  })

  test('is credited exactly once under any doubling and order of the news', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.constantFrom('now', 'later-paid', 'later-bounced', 'expired', 'open'), {
          minLength: 1,
          maxLength: 4,
        }),
        fc.array(fc.nat({ max: 1000 }), { minLength: 40, maxLength: 40 }),
        async (fates, dice) => {
          const { orgId } = await prepaid()
          let expected = 0n
          for (const fate of fates) {
            const { session } = await open(orgId)
            if (fate === 'now') payCheckout(world.fake.state, session)
            if (fate === 'expired') expireCheckout(world.fake.state, session)
            if (fate.startsWith('later')) {
              payCheckout(world.fake.state, session, 'later')
              settleCheckout(world.fake.state, session, fate === 'later-paid')
            }
            if (fate === 'now' || fate === 'later-paid') expected += TEN_USD
          }
          let die = 0
          const roll = () => dice[die++ % dice.length] ?? 0
          await world.deliver((events) =>
            events
              .flatMap((event) => Array.from({ length: 1 + (roll() % 3) }, () => event))
              .map((event) => ({ event, at: roll() }))
              .toSorted((a, b) => a.at - b.at)
              .map(({ event }) => event),
          )
          expect(await creditOf(orgId)).toBe(expected)
        },
      ),
      { numRuns: 25 },
    )
    expect(await checkBooks(world.db)).toEqual([])
  })

  test('is credited once when the same news is applied by many at once', async () => {
    const { orgId } = await prepaid()
    const { session } = await open(orgId)
    payCheckout(world.fake.state, session)
    await Promise.all(Array.from({ length: 6 }, () => world.deliver((events) => events)))
    await world.deliver()
    expect(await creditOf(orgId)).toBe(TEN_USD)
  })

  test('is credited although no news of it ever came', async () => {
    const { orgId } = await prepaid()
    const { topupId, session } = await open(orgId)
    payCheckout(world.fake.state, session)
    await world.deliver(() => [])
    await world.db
      .sql`update topup set created_at = ${new Date(world.fake.state.nowMs - 3 * HOUR_MS)} where id = ${topupId}`
    await world.db
      .sql`update topup set checked_at = now() + interval '1 year' where id <> ${topupId}`
    await syncStaleCheckouts(world.deps, { limit: 10 })
    expect(await creditOf(orgId)).toBe(TEN_USD)
  })

  test('of another amount than was asked for is not credited', async () => {
    const { orgId } = await prepaid()
    const { topupId, session } = await open(orgId)
    const intent = payCheckout(world.fake.state, session)
    const payment = world.fake.state.intents.get(intent)
    if (payment) payment.amount = 1
    await world.deliver()
    expect(await topupOf(topupId)).toMatchObject({ state: 'pending' })
    expect(await creditOf(orgId)).toBe(0n)
    await world.db.sql`update stripe_event set applied_at = now() where applied_at is null`
  })

  test('is for prepaid orgs alone', async () => {
    const { orgId } = await createBareTenant(world.db, { settlementMode: 'postpaid' })
    await expect(open(orgId)).rejects.toThrow('not_prepaid')
  })
})

describe('money that goes back', () => {
  async function paid() {
    const tenant = await prepaid()
    const { session } = await open(tenant.orgId)
    const intent = payCheckout(world.fake.state, session)
    await world.deliver()
    return { tenant, orgId: tenant.orgId, intent }
  }

  test('a refund takes its credit back, once', async () => {
    const { orgId, intent } = await paid()
    refund(world.fake.state, intent, 400)
    await world.deliver((events) => [...events, ...events])
    expect(await creditOf(orgId)).toBe(6_000_000n)
    refund(world.fake.state, intent, 100)
    await world.deliver()
    expect(await creditOf(orgId)).toBe(5_000_000n)
    expect(await frozenOf(orgId)).toBeNull()
    expect(await checkBooks(world.db)).toEqual([])
  })

  test('a refund of credit that is held for jobs is owed, and the org frozen', async () => {
    const { tenant, orgId, intent } = await paid()
    expect((await reserve(world.db, tenant, { n: 10 })).ok).toBe(true)
    refund(world.fake.state, intent, 1000)
    await world.deliver()
    expect(await creditOf(orgId)).toBe(150_000n)
    expect(await frozenOf(orgId)).toBe('returned_payment')
    // Credit that is not there is named first.
    expect(await reserve(world.db, tenant)).toMatchObject({ reason: 'insufficient_credit' })
    expect(await checkBooks(world.db)).toEqual([])
  })

  test('what is owed for a payment that went back is paid from the next one, and the org is free', async () => {
    const { tenant, orgId, intent } = await paid()
    expect((await reserve(world.db, tenant, { n: 10 })).ok).toBe(true)
    refund(world.fake.state, intent, 1000)
    await world.deliver()
    payCheckout(world.fake.state, (await open(orgId)).session)
    await world.deliver()
    expect(await frozenOf(orgId)).toBeNull()
    // What is held, and the new payment less what was owed.
    expect(await creditOf(orgId)).toBe(TEN_USD)
    expect(await reserve(world.db, tenant)).toMatchObject({ ok: true })
    expect(await checkBooks(world.db)).toEqual([])
  })

  test('what is owed for a payment that went back can be written off, up to what it is', async () => {
    const { tenant, orgId, intent } = await paid()
    expect((await reserve(world.db, tenant, { n: 10 })).ok).toBe(true)
    refund(world.fake.state, intent, 1000)
    await world.deliver()
    const debt = { orgId, sourceId: 'decision-1' }
    await expect(writeOff(world.db, { ...debt, amountMicros: 150_001n })).rejects.toThrow('owes')
    expect(await frozenOf(orgId)).toBe('returned_payment')
    expect(await writeOff(world.db, { ...debt, amountMicros: 150_000n })).toBe(true)
    expect(await writeOff(world.db, { ...debt, amountMicros: 150_000n })).toBe(false)
    expect(await frozenOf(orgId)).toBeNull()
    expect(await checkBooks(world.db)).toEqual([])
  })

  test('a disputed payment freezes its org until the dispute is won', async () => {
    const { tenant, orgId, intent } = await paid()
    const dispute = openDispute(world.fake.state, intent)
    await world.deliver()
    expect(await frozenOf(orgId)).toBe('disputed_payment')
    expect(await reserve(world.db, tenant)).toEqual({ ok: false, reason: 'org_frozen' })
    closeDispute(world.fake.state, dispute, 'won')
    await world.deliver()
    expect(await frozenOf(orgId)).toBeNull()
    expect(await creditOf(orgId)).toBe(TEN_USD)
    expect(await reserve(world.db, tenant)).toMatchObject({ ok: true })
  })

  test('a lost dispute takes the credit, in whichever order its news comes', async () => {
    for (const reverse of [false, true]) {
      const { orgId, intent } = await paid()
      closeDispute(world.fake.state, openDispute(world.fake.state, intent), 'lost')
      await world.deliver((events) => (reverse ? events.toReversed() : [...events, ...events]))
      expect(await creditOf(orgId)).toBe(0n)
      expect(await frozenOf(orgId)).toBeNull()
    }
    expect(await checkBooks(world.db)).toEqual([])
  })
})

describe('an automatic top-up', () => {
  async function low(card: 'pays' | 'declined' | 'asks' | 'none' = 'pays') {
    const { orgId } = await prepaid()
    const { session } = await open(orgId)
    payCheckout(world.fake.state, session)
    await world.deliver()
    const customer = world.fake.state.customers.get(await world.customerOf(orgId))
    if (customer) customer.card = card
    await setAutoTopup(world.db, orgId, { belowMicros: 20_000_000n, amountMicros: 25_000_000n })
    return orgId
  }
  const autos = async (orgId: string) =>
    (
      await world.db.sql<{ state: string }[]>`
      select state from topup where org_id = ${orgId} and kind = 'auto' order by id`
    ).map(({ state }) => state)
  const start = () => startDueAutoTopups(world.deps, { limit: 100 })

  test('buys once when the balance is low, however many ask at once and whatever news follows', async () => {
    const orgId = await low()
    await Promise.all([start(), start(), start()])
    await world.deliver((events) => [...events, ...events])
    await start()
    expect(await autos(orgId)).toEqual(['paid'])
    expect(await creditOf(orgId)).toBe(35_000_000n)
  })

  test('is found again when its answer was lost, and not paid twice', async () => {
    const orgId = await low()
    world.fake.fault = ({ path }) => (path === '/v1/payment_intents' ? 'lost-answer' : 'none')
    await start()
    world.fake.fault = () => 'none'
    expect(await autos(orgId)).toEqual(['pending'])
    const before = world.fake.state.intents.size
    await world.db
      .sql`update topup set created_at = ${new Date(world.fake.state.nowMs - HOUR_MS)} where state = 'pending' and kind = 'auto'`
    await resolveAutoTopups(world.deps, { limit: 10 })
    expect(world.fake.state.intents.size).toBe(before)
    expect(await autos(orgId)).toEqual(['paid'])
    expect(await creditOf(orgId)).toBe(35_000_000n)
  })

  test('is made again when the call never arrived', async () => {
    const orgId = await low()
    world.fake.fault = ({ method, path }) =>
      method === 'POST' && path === '/v1/payment_intents' ? 'lost' : 'none'
    await start()
    world.fake.fault = () => 'none'
    await world.db
      .sql`update topup set created_at = ${new Date(world.fake.state.nowMs - HOUR_MS)} where state = 'pending' and kind = 'auto'`
    await resolveAutoTopups(world.deps, { limit: 10 })
    expect(await autos(orgId)).toEqual(['paid'])
    expect(await creditOf(orgId)).toBe(35_000_000n)
  })

  test('that is declined is not repeated at once, and is switched off after three', async () => {
    const orgId = await low('declined')
    for (let round = 0; round < 5; round++) {
      await start()
      await start()
      await world.deliver()
      const { nowMs } = world.fake.state
      await world.db.sql`
        update topup set settled_at = ${new Date(nowMs - 7 * HOUR_MS)} where org_id = ${orgId} and kind = 'auto'`
      await world.db.sql`
        update org set auto_topup_set_at = ${new Date(nowMs - 8 * HOUR_MS)} where id = ${orgId}`
      await world.db.sql`
        update topup set settled_at = ${new Date(nowMs - 9 * HOUR_MS)} where org_id = ${orgId} and kind <> 'auto'`
    }
    expect(await autos(orgId)).toEqual(['failed', 'failed', 'failed'])
    expect(await creditOf(orgId)).toBe(TEN_USD)
  })

  test('without a card or with a card that asks for its owner fails and charges nothing', async () => {
    for (const card of ['none', 'asks'] as const) {
      const orgId = await low(card)
      await start()
      await world.deliver()
      expect(await autos(orgId)).toEqual(['failed'])
      expect(await creditOf(orgId)).toBe(TEN_USD)
    }
  })
})
