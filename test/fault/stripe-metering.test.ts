import fc from 'fast-check'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { reconcileDue } from '../../billing/stripe/reconcile.ts'
import { sealDue } from '../../billing/stripe/seal.ts'
import { sendDue } from '../../billing/stripe/send.ts'
import { processMeterEvents, totalOf } from '../support/fake-stripe/metering.ts'
import type { Fault } from '../support/fake-stripe/server.ts'
import { createBareTenant } from '../support/jobs.ts'
import type { BareTenant } from '../support/jobs.ts'
import { HOUR_MS, openStripeWorld } from '../support/stripe-world.ts'
import type { StripeWorld } from '../support/stripe-world.ts'

const DAY_MS = 24 * HOUR_MS
/** The hour that each test begins in the middle of, and the one before. */
let THIS_HOUR = new Date(0)
let LAST_HOUR = new Date(0)

let world: StripeWorld

beforeAll(async () => {
  world = await openStripeWorld()
})
afterAll(() => world.close())
beforeEach(() => {
  world.fake.fault = () => 'none'
  // Time goes forward alone, and no test looks into the hours of another.
  const { nowMs } = world.fake.state
  THIS_HOUR = new Date(Math.floor(nowMs / HOUR_MS) * HOUR_MS + 40 * HOUR_MS)
  LAST_HOUR = new Date(THIS_HOUR.getTime() - HOUR_MS)
  world.fake.advance(THIS_HOUR.getTime() + 30 * 60_000 - nowMs)
})

const nameOf = (tenant: BareTenant, revision: number, hour = LAST_HOUR) =>
  `ev:${tenant.orgId}:images:${hour.toISOString().slice(0, 13).replaceAll(/[-T]/g, '')}:${revision}`

const send = () => sendDue(world.deps, { limit: 100 })

/** What the meter would bill of an hour. */
async function meterOf(tenant: BareTenant, hour: Date): Promise<bigint> {
  processMeterEvents(world.fake.state)
  return totalOf(world.fake.state, await world.customerOf(tenant.orgId), hour.getTime()) ?? 0n
}

/** Seals, sends and waits until nothing is due, as sweeps do over some time. */
async function settle(rounds = 12): Promise<void> {
  for (let round = 0; round < rounds; round++) {
    await sealDue(world.deps)
    await send()
    world.fake.advance(35 * 60_000)
  }
}

describe('an hour of usage', () => {
  test('is told as its total, a few minutes after it closed and not before', async () => {
    const tenant = await world.createMetered()
    await world.use(tenant, new Date(LAST_HOUR.getTime() + 60_000), 3)
    await world.use(tenant, new Date(THIS_HOUR.getTime() + 60_000), 2)
    await sealDue(world.deps)
    await send()
    expect(await meterOf(tenant, LAST_HOUR)).toBe(3n)
    expect(await meterOf(tenant, THIS_HOUR)).toBe(0n)
    world.fake.advance(34 * 60_000)
    await sealDue(world.deps)
    expect(await world.reportsOf(tenant.orgId)).toHaveLength(1)
    world.fake.advance(2 * 60_000)
    await sealDue(world.deps)
    await send()
    expect(await meterOf(tenant, THIS_HOUR)).toBe(2n)
  })

  test('that changes is told anew, as a total that stands for all before', async () => {
    const tenant = await world.createMetered()
    await world.use(tenant, LAST_HOUR, 3)
    await sealDue(world.deps)
    await send()
    await world.refundImage(tenant, LAST_HOUR)
    await sealDue(world.deps)
    await send()
    expect(await meterOf(tenant, LAST_HOUR)).toBe(2n)
    await world.refundImage(tenant, LAST_HOUR)
    await world.refundImage(tenant, LAST_HOUR)
    await sealDue(world.deps)
    await send()
    expect(await meterOf(tenant, LAST_HOUR)).toBe(0n)
    expect((await world.reportsOf(tenant.orgId)).map((row) => row.revision)).toEqual([1, 2, 3])
  })

  test('that changes while it is on its way is told anew afterwards, never at the same time', async () => {
    const tenant = await world.createMetered()
    await world.use(tenant, LAST_HOUR, 3)
    await sealDue(world.deps)
    world.fake.fault = () => 'lost-answer'
    await send()
    await world.refundImage(tenant, LAST_HOUR)
    await sealDue(world.deps)
    expect(await world.reportsOf(tenant.orgId)).toHaveLength(1)
    world.fake.fault = () => 'none'
    world.fake.advance(60_000)
    await send()
    await send()
    expect(await meterOf(tenant, LAST_HOUR)).toBe(2n)
  })

  test('of a prepaid or internal org is refused by the database itself', async () => {
    for (const settlementMode of ['prepaid', 'internal'] as const) {
      const tenant = await createBareTenant(world.db, {
        settlementMode,
        org: { creditMicros: 1_000_000n },
      })
      await world.use(tenant, LAST_HOUR, 1)
      await sealDue(world.deps)
      expect(await world.reportsOf(tenant.orgId)).toEqual([])
      await expect(
        world.db.sql`select seal_window(${tenant.orgId}, 'images', ${LAST_HOUR}, now(), true)`,
      ).rejects.toThrow('meter_report_postpaid_org')
      await expect(
        world.db.sql`update org set settlement_mode = 'postpaid' where id = ${tenant.orgId}`,
      ).rejects.toThrow('settlement mode stays')
    }
  })
})

describe('a repeat', () => {
  test('after a lost answer is counted once, by identifier or by key', async () => {
    const tenant = await world.createMetered()
    await world.use(tenant, LAST_HOUR, 5)
    await sealDue(world.deps)
    let isFirst = true
    world.fake.fault = ({ path }) => {
      if (path !== '/v1/billing/meter_events' || !isFirst) return 'none'
      isFirst = false
      return 'lost-answer'
    }
    await send()
    expect((await world.reportsOf(tenant.orgId))[0]?.state).toBe('unknown')
    world.fake.advance(60_000)
    await send()
    expect((await world.reportsOf(tenant.orgId))[0]?.state).toBe('accepted')
    expect(await meterOf(tenant, LAST_HOUR)).toBe(5n)
  })

  test('that Stripe refuses as a duplicate counts as delivered', async () => {
    const tenant = await world.createMetered()
    await world.use(tenant, LAST_HOUR, 5)
    await sealDue(world.deps)
    // An answer of 500 is kept under the key, so that the fourth try has a key of its own and meets the identifier.
    world.fake.fault = ({ path }) => (path === '/v1/billing/meter_events' ? '500-after' : 'none')
    await send()
    world.fake.fault = () => 'none'
    for (let round = 0; round < 4; round++) {
      world.fake.advance(10 * 60_000)
      await send()
    }
    const answers = world.fake.calls
      .filter((call) => call.path === '/v1/billing/meter_events')
      .slice(-4)
    expect(answers.map((call) => call.status)).toEqual([500, 500, 500, 400])
    expect((await world.reportsOf(tenant.orgId))[0]?.state).toBe('accepted')
    expect(await meterOf(tenant, LAST_HOUR)).toBe(5n)
  })

  test('after an outage of more than a day does not double', async () => {
    const tenant = await world.createMetered()
    await world.use(tenant, LAST_HOUR, 7)
    await sealDue(world.deps)
    world.fake.fault = () => 'lost-answer'
    await send()
    world.fake.fault = () => 'lost'
    world.fake.advance(30 * HOUR_MS)
    await send()
    world.fake.fault = () => 'none'
    world.fake.advance(HOUR_MS)
    await send()
    const taken = world.fake.state.meterEvents.filter((event) => event.value === 7n)
    expect(taken).toHaveLength(2)
    expect(await meterOf(tenant, LAST_HOUR)).toBe(7n)
  })

  test('has the identifier of the first, and is used as the key of the call', async () => {
    const tenant = await world.createMetered()
    await world.use(tenant, LAST_HOUR, 1)
    await sealDue(world.deps)
    await send()
    const call = world.fake.calls.findLast(({ path }) => path === '/v1/billing/meter_events')
    expect(call?.key).toBe(call?.params.identifier)
    expect(call?.key).toBe(nameOf(tenant, 1))
  })
})

describe('one at a time', () => {
  test('no two windows of an org are on their way together, however many senders there are', async () => {
    const tenants = await Promise.all([world.createMetered(), world.createMetered()])
    for (const tenant of tenants) {
      for (const hour of [LAST_HOUR, new Date(LAST_HOUR.getTime() + 30 * 60_000)])
        await world.use(tenant, hour, 1)
      await world.use(tenant, THIS_HOUR, 4)
    }
    world.fake.advance(HOUR_MS)
    await sealDue(world.deps)
    await Promise.all([send(), send(), send(), send()])
    await send()
    expect(world.fake.overlaps).toEqual([])
    for (const tenant of tenants) expect(await meterOf(tenant, THIS_HOUR)).toBe(4n)
  })

  test('a report that is on its way is not taken by another gateway whose clock is ten minutes ahead', async () => {
    const tenant = await world.createMetered()
    await world.use(tenant, LAST_HOUR, 2)
    await sealDue(world.deps)
    // Killed after its claim: nobody knows whether it is still at work.
    let statements = 0
    const sql = new Proxy(world.db.sql, {
      apply(target, self, input) {
        statements += 1
        if (statements > 1) throw new Error('killed')
        return Reflect.apply(target, self, input)
      },
    })
    const killed = sendDue({ ...world.deps, db: { ...world.db, sql } }, { limit: 10 })
    await expect(killed).rejects.toThrow('killed')
    const ahead = { ...world.deps, now: () => new Date(world.fake.state.nowMs + 600_000) }
    expect(await sendDue(ahead, { limit: 10 })).toBe(0)
    world.fake.advance(13 * 60_000)
    await send()
    expect(await meterOf(tenant, LAST_HOUR)).toBe(2n)
  })

  test('a sender that died is followed by one that repeats its call', async () => {
    const tenant = await world.createMetered()
    await world.use(tenant, LAST_HOUR, 2)
    await sealDue(world.deps)
    await world.db.sql`select claim_reports(10, interval '120 seconds', ${world.deps.now()})`
    await send()
    expect(await meterOf(tenant, LAST_HOUR)).toBe(0n)
    world.fake.advance(121_000)
    await send()
    expect(await meterOf(tenant, LAST_HOUR)).toBe(2n)
  })
})

describe('reconciling', () => {
  test('confirms what Stripe has summed, and waits while its summaries lag', async () => {
    const tenant = await world.createMetered()
    await world.use(tenant, LAST_HOUR, 2)
    await sealDue(world.deps)
    await send()
    world.fake.advance(10 * 60_000)
    await reconcileDue(world.deps, { limit: 100 })
    expect((await world.reportsOf(tenant.orgId)).map((row) => row.state)).toEqual(['accepted'])
    processMeterEvents(world.fake.state)
    world.fake.advance(10 * 60_000)
    await reconcileDue(world.deps, { limit: 100 })
    expect((await world.reportsOf(tenant.orgId)).map((row) => row.state)).toEqual(['confirmed'])
  })

  test('an event that Stripe took and then dropped is reported, and told anew', async () => {
    const tenant = await world.createMetered()
    const other = await world.createMetered()
    for (const one of [tenant, other]) await world.use(one, LAST_HOUR, 6)
    await sealDue(world.deps)
    // Both are dropped, and the report names one of them.
    for (const one of [tenant, other]) world.fake.state.rejectLater.add(nameOf(one, 1))
    await send()
    expect(await meterOf(tenant, LAST_HOUR)).toBe(0n)
    await world.deliver((events) => [...events, ...events])
    await reconcileDue(world.deps, { limit: 100 })
    await send()
    for (const one of [tenant, other]) {
      expect(await meterOf(one, LAST_HOUR)).toBe(6n)
      const states = (await world.reportsOf(one.orgId)).map((row) => `${row.revision} ${row.state}`)
      expect(states).toEqual(['1 failed', '2 accepted'])
    }
  })

  test('a window that never agrees is told anew three times and then raises an alarm', async () => {
    const tenant = await world.createMetered()
    await world.use(tenant, LAST_HOUR, 6)
    for (let revision = 1; revision < 9; revision++)
      world.fake.state.rejectLater.add(nameOf(tenant, revision))
    for (let round = 0; round < 20; round++) {
      await sealDue(world.deps)
      await send()
      await reconcileDue(world.deps, { limit: 100 })
      world.fake.advance(40 * 60_000)
    }
    expect(await world.reportsOf(tenant.orgId)).toHaveLength(4)
    expect(world.logged.some((entry) => entry.action === 'alarm')).toBe(true)
  })
})

describe('what a meter takes no more', () => {
  test('goes on as an item of the next invoice, by the difference', async () => {
    const tenant = await world.createMetered()
    await world.use(tenant, LAST_HOUR, 4)
    await sealDue(world.deps)
    await send()
    world.fake.advance(36 * DAY_MS)
    await world.refundImage(tenant, LAST_HOUR)
    await world.refundImage(tenant, LAST_HOUR)
    await sealDue(world.deps)
    let isFirst = true
    world.fake.fault = ({ path }) => {
      if (path !== '/v1/invoiceitems' || !isFirst) return 'none'
      isFirst = false
      return 'lost-answer'
    }
    await send()
    // A day later Stripe has forgotten the key; the item is found by its identifier.
    world.fake.advance(30 * HOUR_MS)
    await send()
    const customer = await world.customerOf(tenant.orgId)
    const items = [...world.fake.state.items.values()].filter((item) => item.customer === customer)
    expect(items.map((item) => item.amount)).toEqual([-3])
    const reports = await world.reportsOf(tenant.orgId)
    expect(reports.map((row) => `${row.channel} ${row.state}`)).toEqual([
      'meter accepted',
      'invoice_item accepted',
    ])
  })
})

describe('any interleaving', () => {
  const step = fc.oneof(
    {
      weight: 4,
      arbitrary: fc.record({
        kind: fc.constant('use' as const),
        org: fc.nat(1),
        images: fc.integer({ min: 1, max: 4 }),
      }),
    },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('refund' as const), org: fc.nat(1) }) },
    {
      weight: 4,
      arbitrary: fc.record({
        kind: fc.constant('wait' as const),
        minutes: fc.integer({ min: 1, max: 90 }),
      }),
    },
    {
      weight: 1,
      arbitrary: fc.record({
        kind: fc.constant('outage' as const),
        hours: fc.integer({ min: 20, max: 30 }),
      }),
    },
    { weight: 3, arbitrary: fc.record({ kind: fc.constant('seal' as const) }) },
    {
      weight: 5,
      arbitrary: fc.record({
        kind: fc.constant('send' as const),
        senders: fc.integer({ min: 1, max: 3 }),
      }),
    },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant('reconcile' as const) }) },
  )
  const faults = fc.array(
    fc.constantFrom<Fault>('none', 'none', 'lost', 'lost-answer', '429', '500', '500-after'),
    { minLength: 30, maxLength: 30 },
  )

  test('of use, refund, seal, send and faults ends with the meter saying what our books say', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(step, { minLength: 5, maxLength: 30 }),
        faults,
        async (steps, dice) => {
          world.fake.fault = () => 'none'
          const tenants = [await world.createMetered(), await world.createMetered()]
          const used: { tenant: BareTenant; hour: Date }[] = []
          let die = 0
          const isMeterCall = (path: string) => path === '/v1/billing/meter_events'
          world.fake.fault = ({ path }) =>
            isMeterCall(path) ? (dice[die++ % dice.length] ?? 'none') : 'none'
          for (const move of steps) {
            if (move.kind === 'use') {
              const tenant = tenants[move.org]
              if (!tenant) continue
              const now = world.deps.now()
              await world.use(tenant, now, move.images)
              used.push({ tenant, hour: new Date(Math.floor(now.getTime() / HOUR_MS) * HOUR_MS) })
            }
            if (move.kind === 'refund') {
              const target = used.find(({ tenant }) => tenant === tenants[move.org])
              if (target) await world.refundImage(target.tenant, target.hour).catch(() => {})
            }
            if (move.kind === 'wait') world.fake.advance(move.minutes * 60_000)
            if (move.kind === 'outage') world.fake.advance(move.hours * HOUR_MS)
            if (move.kind === 'seal') await sealDue(world.deps)
            if (move.kind === 'send')
              await Promise.all(Array.from({ length: move.senders }, () => send()))
            if (move.kind === 'reconcile') {
              processMeterEvents(world.fake.state)
              await reconcileDue(world.deps, { limit: 100 })
            }
          }
          world.fake.fault = () => 'none'
          await settle()
          processMeterEvents(world.fake.state)
          await reconcileDue(world.deps, { limit: 1000 })
          for (const { tenant, hour } of used) {
            const [row] = await world.db.sql<{ quantity: bigint }[]>`
            select count(*) + coalesce((select sum(c.images) from usage_correction c
                     join usage_event u on u.id = c.usage_event_id
                    where u.org_id = ${tenant.orgId} and date_trunc('hour', u.occurred_at, 'UTC') = ${hour}), 0) as quantity
              from usage_event where org_id = ${tenant.orgId} and date_trunc('hour', occurred_at, 'UTC') = ${hour}`
            expect(await meterOf(tenant, hour)).toBe(BigInt(row?.quantity ?? 0))
          }
          for (const { orgId } of tenants) {
            const reports = await world.reportsOf(orgId)
            expect(reports.filter((row) => row.state === 'failed')).toEqual([])
            const identifiers = new Set(
              reports.map((row) => `${row.hour.getTime()} ${row.revision}`),
            )
            expect(identifiers.size).toBe(reports.length)
          }
          expect(world.fake.overlaps).toEqual([])
        },
      ),
      { numRuns: 25 },
    )
  }, 240_000)
})

test('a report whose sender comes back while another takes it up is finished once', async () => {
  const { sql } = world.db
  const tenant = await world.createMetered()
  await world.use(tenant, LAST_HOUR, 3)
  await sealDue(world.deps)
  const claim = () =>
    sql<{ id: string; attempts: number }[]>`
      select id, attempts from claim_reports(10, interval '1 minute', ${world.deps.now()})
       where org_id = ${tenant.orgId}`
  const [report] = await claim()
  // Its lease runs out, and usage that came meanwhile makes the next revision as soon as this one is finished.
  world.fake.advance(2 * 60_000)
  await world.use(tenant, LAST_HOUR, 2)
  const now = world.deps.now()
  const second = await sql.begin(async (tx) => {
    await tx`select finish_report(${report?.id ?? ''}, ${report?.attempts ?? 0}, 'accepted', null, ${now}, ${now})`
    const claimed = claim().then(
      (rows) => rows,
      (error: unknown) => error,
    )
    await untilBlocked()
    return { claimed }
  })
  expect(await second.claimed).toEqual([])
  expect(await world.reportsOf(tenant.orgId)).toMatchObject([
    { revision: 1, state: 'accepted' },
    { revision: 2, state: 'sealed', quantity: 5n },
  ])
})

/** Until a claim waits for a lock. */
async function untilBlocked(): Promise<void> {
  for (;;) {
    const rows = await world.db.sql`
      select 1 from pg_stat_activity
       where datname = current_database() and wait_event_type = 'Lock' and query like '%claim_reports%'`
    if (rows.length > 0) return
  }
}
