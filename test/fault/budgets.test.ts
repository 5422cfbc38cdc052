import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { readBalance } from '../../billing/balance.ts'
import { grantCredit } from '../../billing/credit.ts'
import { refundImages } from '../../billing/refund.ts'
import { settleJob } from '../../billing/settle.ts'
import { claimJob } from '../../db/job-claims.ts'
import { revokeKey } from '../../db/keys.ts'
import { setBudget } from '../../db/orgs.ts'
import { checkBooks } from '../support/books.ts'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { IMAGE_MICROS, createBareKey, createBareTenant, deliver, reserve } from '../support/jobs.ts'
import type { BareTenant } from '../support/jobs.ts'

let database: TestDatabase
beforeAll(async () => {
  database = await createTestDatabase({ maxConnections: 32 })
})
afterAll(() => database.close())

/** Reserves one image and, as a worker would, delivers and settles it. */
async function buyImage(tenant: BareTenant): Promise<boolean> {
  const { db } = database
  const result = await reserve(db, tenant)
  if (!result.ok) return false
  const { jobId } = result
  await claimJob(db, { jobId, workerId: 'w', leaseSeconds: 60, maxFailedAttempts: 3 })
  await deliver(db, jobId, 1)
  await settleJob(db, { jobId, attempt: 1, outcome: 'succeeded' })
  return true
}

async function periodOf(scopeId: string, kind: 'day' | 'month') {
  const [row] = await database.db.sql<
    { held_micros: bigint; spent_micros: bigint; limit_micros: bigint | null }[]
  >`select held_micros, spent_micros, limit_micros from budget
     where scope_id = ${scopeId} and kind = ${kind}`
  return row
}

const PERIODS = [
  { kind: 'day', field: 'dayLimitMicros' },
  { kind: 'month', field: 'monthLimitMicros' },
] as const
const CASES = PERIODS.flatMap((period) =>
  (['key', 'team', 'org'] as const).map((scope) => ({ ...period, scope })),
)

function endOf(kind: 'day' | 'month'): Date {
  const now = new Date()
  const [year, month, day] = [now.getUTCFullYear(), now.getUTCMonth(), now.getUTCDate()]
  return new Date(kind === 'day' ? Date.UTC(year, month, day + 1) : Date.UTC(year, month + 1))
}

describe('limits of days and months', () => {
  test.for(CASES)(
    'set in mid-$kind, a limit on a $scope counts what was held and spent before',
    async ({ kind, field, scope }) => {
      const { db } = database
      const tenant = await createBareTenant(db)
      const scopeId = { key: tenant.keyId, team: tenant.teamId, org: tenant.orgId }[scope]
      await buyImage(tenant)
      await reserve(db, tenant, { n: 2 })
      const limit = { scope, scopeId, [field]: 4n * IMAGE_MICROS }
      expect(await setBudget(db, limit)).toEqual({ ok: true })
      expect(await periodOf(scopeId, kind)).toMatchObject({
        held_micros: 2n * IMAGE_MICROS,
        spent_micros: IMAGE_MICROS,
      })
      expect(await reserve(db, tenant, { n: 2 })).toMatchObject({
        reason: 'budget_exceeded',
        scope,
        period: kind,
        resetsAt: endOf(kind),
      })
      expect(await reserve(db, tenant)).toMatchObject({ ok: true })
      expect(await checkBooks(db)).toEqual([])
    },
  )

  test.for(PERIODS)(
    'a limit of a $kind that is taken away and set again still counts the time between',
    async ({ kind, field }) => {
      const { db } = database
      const tenant = await createBareTenant(db, { team: { [field]: 9n * IMAGE_MICROS } })
      const team = { scope: 'team', scopeId: tenant.teamId } as const
      await buyImage(tenant)
      await setBudget(db, { ...team, [field]: null })
      await buyImage(tenant)
      await setBudget(db, { ...team, [field]: 9n * IMAGE_MICROS })
      expect(await periodOf(tenant.teamId, kind)).toMatchObject({
        spent_micros: 2n * IMAGE_MICROS,
      })
      expect(await checkBooks(db)).toEqual([])
    },
  )

  test.for(PERIODS)(
    'set in mid-$kind, a limit leaves out what was given back before',
    async ({ kind, field }) => {
      const { db } = database
      const tenant = await createBareTenant(db)
      const { orgId, keyId } = tenant
      await buyImage(tenant)
      await buyImage(tenant)
      const [job] = await db.sql<
        { id: string }[]
      >`select id from job where key_id = ${keyId} limit 1`
      await refundImages(db, {
        orgId,
        jobId: job?.id ?? '',
        refundId: `refund-${kind}`,
        indexes: [0],
      })
      await setBudget(db, { scope: 'key', scopeId: keyId, [field]: 2n * IMAGE_MICROS })
      expect(await periodOf(keyId, kind)).toMatchObject({ spent_micros: IMAGE_MICROS })
      expect(await reserve(db, tenant)).toMatchObject({ ok: true })
      expect(await checkBooks(db)).toEqual([])
    },
  )

  test('one day of 7 images admits no eighth of 60 callers, and the month beside it counts the same', async () => {
    const { db } = database
    const tenant = await createBareTenant(db, {
      team: { dayLimitMicros: 7n * IMAGE_MICROS, monthLimitMicros: 9n * IMAGE_MICROS },
    })
    const results = await Promise.all(Array.from({ length: 60 }, () => reserve(db, tenant)))
    expect(results.filter((result) => result.ok)).toHaveLength(7)
    expect(results.find((result) => !result.ok)).toMatchObject({
      reason: 'budget_exceeded',
      scope: 'team',
      period: 'day',
      resetsAt: endOf('day'),
    })
    expect(await periodOf(tenant.teamId, 'month')).toMatchObject({ held_micros: 7n * IMAGE_MICROS })
    // Both refuse three: who waits for the end of the day would wait for nothing.
    expect(await reserve(db, tenant, { n: 3 })).toMatchObject({ period: 'month' })
    expect(await checkBooks(db)).toEqual([])
  })

  test('a new day is a new row, and yesterday stays as it was', async () => {
    const { db } = database
    const tenant = await createBareTenant(db, { key: { dayLimitMicros: IMAGE_MICROS } })
    await buyImage(tenant)
    expect(await reserve(db, tenant)).toMatchObject({ reason: 'budget_exceeded', period: 'day' })
    await db.sql`
      update budget set period_start = period_start - interval '1 day', period_end = period_start
       where scope_id = ${tenant.keyId} and kind = 'day'`
    await db.sql`
      update reservation r set created_at = r.created_at - interval '1 day'
        from job j where j.id = r.job_id and j.key_id = ${tenant.keyId}`
    expect(await reserve(db, tenant)).toMatchObject({ ok: true })
    const days = await db.sql`
      select held_micros, spent_micros from budget
       where scope_id = ${tenant.keyId} and kind = 'day' order by period_start`
    expect([...days]).toEqual([
      { held_micros: 0n, spent_micros: IMAGE_MICROS },
      { held_micros: IMAGE_MICROS, spent_micros: 0n },
    ])
    expect(await checkBooks(db)).toEqual([])
  })

  test('limits set and removed while jobs are accepted and settled leave the books balanced', async () => {
    const { db } = database
    const tenant = await createBareTenant(db)
    const levels = [
      { scope: 'key', scopeId: tenant.keyId },
      { scope: 'team', scopeId: tenant.teamId },
      { scope: 'org', scopeId: tenant.orgId },
    ] as const
    await Promise.all([
      ...Array.from({ length: 60 }, () => buyImage(tenant)),
      ...levels.flatMap((level) =>
        [40n, null, 1000n, 30n, 1000n, null, 1000n].map((images) =>
          setBudget(db, {
            ...level,
            dayLimitMicros: images === null ? 1000n * IMAGE_MICROS : null,
            monthLimitMicros: images === null ? null : images * IMAGE_MICROS,
            softBp: images === null ? [5_000] : [100, 5_000],
          }),
        ),
      ),
    ])
    expect(await checkBooks(db)).toEqual([])
  })

  test('a hold settled after its month ended returns to the month that accepted it', async () => {
    const { db } = database
    const tenant = await createBareTenant(db, { key: { monthLimitMicros: 5n * IMAGE_MICROS } })
    const result = await reserve(db, tenant)
    if (!result.ok) throw new Error(result.reason)
    // The row of the month that was: as if the job had been accepted in it.
    await db.sql`
      update budget set period_start = period_start - interval '1 month', period_end = period_start
       where scope_id = ${tenant.keyId} and kind = 'month'`
    await db.sql`
      update reservation set created_at = created_at - interval '1 month' where job_id = ${result.jobId}`
    await reserve(db, tenant, { n: 5 })
    await settleJob(db, { jobId: result.jobId, attempt: null, outcome: 'failed' })
    const months = await db.sql`
      select held_micros, spent_micros from budget
       where scope_id = ${tenant.keyId} and kind = 'month' order by period_start`
    expect(months.map((row) => row.held_micros)).toEqual([0n, 5n * IMAGE_MICROS])
    expect(await checkBooks(db)).toEqual([])
  })
})

test('a negative limit is refused by name, and by the table itself', async () => {
  const { db } = database
  const tenant = await createBareTenant(db)
  const team = { scope: 'team', scopeId: tenant.teamId } as const
  const negative = [
    { creditMicros: -1n },
    { dayLimitMicros: -1n },
    { monthLimitMicros: -1n },
    { maxInflight: -1 },
  ]
  for (const limits of negative) {
    expect(await setBudget(db, { ...team, ...limits })).toEqual({
      ok: false,
      reason: 'negative_limit',
    })
    await expect(createBareKey(db, tenant.orgId, { team: limits })).rejects.toThrow(
      /violates check constraint "budget_/,
    )
  }
  expect(await setBudget(db, { ...team, monthLimitMicros: 0n })).toEqual({ ok: true })
  expect(await reserve(db, tenant)).toMatchObject({ reason: 'budget_exceeded', scope: 'team' })
})

describe('credit', () => {
  test('one payment announced by twenty callers at once is granted once', async () => {
    const { db } = database
    const tenant = await createBareTenant(db, { settlementMode: 'prepaid' })
    const grant = { orgId: tenant.orgId, amountMicros: 3n * IMAGE_MICROS, sourceId: 'payment-1' }
    const granted = await Promise.all(Array.from({ length: 20 }, () => grantCredit(db, grant)))
    expect(granted.filter(Boolean)).toHaveLength(1)
    expect(await buyImage(tenant)).toBe(true)
    const [, , org] = await readBalance(db, tenant)
    expect(org).toMatchObject({ scope: 'org', availableMicros: 2n * IMAGE_MICROS, inflight: 0 })
    expect(await checkBooks(db)).toEqual([])
  })

  test.for(['postpaid', 'internal'] as const)(
    'credit for an org that is %s is refused and caps nothing',
    async (settlementMode) => {
      const { db } = database
      const tenant = await createBareTenant(db, { settlementMode })
      const grant = { orgId: tenant.orgId, amountMicros: IMAGE_MICROS, sourceId: settlementMode }
      await expect(grantCredit(db, grant)).rejects.toThrow(
        `${tenant.orgId} is ${settlementMode}; it has no paid credit`,
      )
      expect(await reserve(db, tenant, { n: 10 })).toMatchObject({ ok: true })
      expect(await checkBooks(db)).toEqual([])
    },
  )

  test('a source that was granted is no source for another org or another amount', async () => {
    const { db } = database
    const tenant = await createBareTenant(db, { settlementMode: 'prepaid' })
    const other = await createBareTenant(db, { settlementMode: 'prepaid' })
    const grant = { orgId: tenant.orgId, amountMicros: IMAGE_MICROS, sourceId: 'payment-2' }
    expect(await grantCredit(db, grant)).toBe(true)
    expect(await grantCredit(db, grant)).toBe(false)
    for (const change of [{ orgId: other.orgId }, { amountMicros: IMAGE_MICROS + 1n }]) {
      await expect(grantCredit(db, { ...grant, ...change })).rejects.toThrow('granted before')
    }
    await expect(grantCredit(db, { ...grant, orgId: 'org_none' })).rejects.toThrow('no org')
    await expect(grantCredit(db, { ...grant, amountMicros: 0n })).rejects.toThrow('positive')
    expect(await reserve(db, other)).toMatchObject({ reason: 'insufficient_credit' })
    expect(await checkBooks(db)).toEqual([])
  })

  test("a prepaid org's credit cannot be set past the ledger", async () => {
    const { db } = database
    const tenant = await createBareTenant(db, { settlementMode: 'prepaid' })
    const change = { scope: 'org', scopeId: tenant.orgId, creditMicros: 1_000_000n } as const
    expect(await setBudget(db, change)).toEqual({ ok: false, reason: 'credit_is_granted' })
    expect(await setBudget(db, { ...change, scopeId: 'org_none' })).toEqual({
      ok: false,
      reason: 'not_found',
    })
    expect(await checkBooks(db)).toEqual([])
  })

  test('an internal org is charged to its own cost, never to revenue', async () => {
    const { db } = database
    const tenant = await createBareTenant(db, { settlementMode: 'internal' })
    await buyImage(tenant)
    const entries = await db.sql`
      select e.account_id, e.amount_micros from ledger_entry e join ledger_txn t on t.id = e.txn_id
       where t.kind = 'charge' and exists (
         select 1 from job j where substr(j.id, 5) = t.source_id and j.org_id = ${tenant.orgId})
       order by e.id`
    expect(entries.map((row) => [row.account_id, row.amount_micros])).toEqual([
      [`team_cost:${tenant.teamId}`, IMAGE_MICROS],
      ['recovery', -IMAGE_MICROS],
    ])
    expect(await checkBooks(db)).toEqual([])
  })
})

test('once a revocation has returned, no job of the key appears any more', async () => {
  const { db } = database
  for (let round = 0; round < 10; round++) {
    const tenant = await createBareTenant(db)
    const countJobs = () => db.sql`select id from job where key_id = ${tenant.keyId}`
    const callers = Array.from({ length: 60 }, () => reserve(db, tenant))
    await Promise.race(callers)
    await revokeKey(db, tenant)
    const atReturn = await countJobs()
    const results = await Promise.all(callers)
    const afterwards = await countJobs()
    expect(afterwards.length).toBe(atReturn.length)
    expect(results.filter((result) => result.ok)).toHaveLength(afterwards.length)
    expect(await reserve(db, tenant)).toEqual({ ok: false, reason: 'key_inactive' })
  }
  expect(await checkBooks(db)).toEqual([])
})

test('an image beyond the ordered number is refused as a bug and charged to nobody', async () => {
  const { db } = database
  const tenant = await createBareTenant(db)
  const result = await reserve(db, tenant)
  if (!result.ok) throw new Error(result.reason)
  const { jobId } = result
  await claimJob(db, { jobId, workerId: 'w', leaseSeconds: 60, maxFailedAttempts: 3 })
  await expect(deliver(db, jobId, 1, 1)).rejects.toThrow(RangeError)
  await deliver(db, jobId, 1, 0)
  expect(await settleJob(db, { jobId, attempt: 1, outcome: 'succeeded' })).toMatchObject({
    capturedMicros: IMAGE_MICROS,
  })
  expect(await checkBooks(db)).toEqual([])
})

test('accepting and settling a job reads no table as a whole, even where no statistics are', async () => {
  const single = await createTestDatabase({ maxConnections: 1 })
  try {
    const { db } = single
    const tenants: BareTenant[] = []
    for (let index = 0; index < 40; index++) {
      const limits = { dayLimitMicros: 10n ** 9n, monthLimitMicros: 10n ** 9n, softBp: [8_000] }
      tenants.push(await createBareTenant(db, { team: limits }))
    }
    const scans = async () => {
      await db.sql`select pg_stat_force_next_flush()`
      const [row] = await db.sql<{ scans: bigint }[]>`
        select sum(seq_scan)::bigint as scans from pg_stat_user_tables
         where relname in ('budget', 'budget_alert', 'reservation', 'reservation_leg', 'api_key', 'org', 'job_output')`
      return row?.scans
    }
    const before = await scans()
    for (const tenant of tenants) {
      const result = await reserve(db, tenant)
      if (!result.ok) throw new Error(result.reason)
      const { jobId } = result
      await db.sql`update job set state = 'running', attempt = 1 where id = ${jobId}`
      await deliver(db, jobId, 1)
      await settleJob(db, { jobId, attempt: 1, outcome: 'succeeded' })
    }
    expect(await scans()).toBe(before)
  } finally {
    await single.close()
  }
})
