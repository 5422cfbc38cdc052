import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { readBalance } from '../../billing/balance.ts'
import { refundImages } from '../../billing/refund.ts'
import { settleJob } from '../../billing/settle.ts'
import { claimJob } from '../../db/job-claims.ts'
import type { Limits } from '../../db/orgs.ts'
import { setBudget } from '../../db/orgs.ts'
import { insertEndpoint } from '../../db/webhooks.ts'
import { thresholdData } from '../../edge/webhook-events.ts'
import { checkBooks } from '../support/books.ts'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { IMAGE_MICROS, createBareTenant, deliver, reserve } from '../support/jobs.ts'
import type { BareTenant } from '../support/jobs.ts'

let database: TestDatabase
beforeAll(async () => {
  database = await createTestDatabase({ maxConnections: 24 })
})
afterAll(() => database.close())

async function start(tenant: BareTenant, n = 1): Promise<string> {
  const result = await reserve(database.db, tenant, { n })
  if (!result.ok) throw new Error(result.reason)
  return result.jobId
}

/** Ends a job with so many of its images stored. */
async function finish(jobId: string, images: number): Promise<void> {
  const { db } = database
  await claimJob(db, { jobId, workerId: 'w', leaseSeconds: 60, maxFailedAttempts: 3 })
  for (let idx = 0; idx < images; idx++) await deliver(db, jobId, 1, idx)
  await settleJob(db, { jobId, attempt: 1, outcome: images > 0 ? 'succeeded' : 'failed' })
}

async function buy(tenant: BareTenant, images = 1): Promise<string> {
  const jobId = await start(tenant, images)
  await finish(jobId, images)
  return jobId
}

/** The thresholds that the org heard of, in the order of their telling. */
async function told(orgId: string): Promise<string[]> {
  const rows = await database.db.sql<{ data: unknown }[]>`
    select payload->'data' as data from webhook_event
     where org_id = ${orgId} and type = 'budget.threshold_reached' order by created_at, subject_id`
  return rows.map(({ data }) => {
    const { scope, period, threshold_bp: bp, spent, limit } = thresholdData.parse(data)
    return `${scope} ${period} ${bp}: ${Number(spent)} of ${Number(limit)}`
  })
}

function images(count: number): bigint {
  return BigInt(count) * IMAGE_MICROS
}

describe('soft thresholds', () => {
  test.for([
    { period: 'day', field: 'dayLimitMicros' },
    { period: 'month', field: 'monthLimitMicros' },
    { period: 'total', field: 'creditMicros' },
  ] as const)('each fires once for a $period, with the charge that reaches it', async (one) => {
    const { db } = database
    const team = { [one.field]: images(4), softBp: [10_000, 5_000, 8_000] }
    const tenant = await createBareTenant(db, { team })
    const heard: string[][] = []
    for (let call = 0; call < 4; call++) {
      await buy(tenant)
      heard.push(await told(tenant.orgId))
    }
    const half = `team ${one.period} 5000: 0.03 of 0.06`
    const all = [half, ...[10_000, 8_000].map((bp) => `team ${one.period} ${bp}: 0.06 of 0.06`)]
    expect(heard).toEqual([[], [half], [half], all])
    expect(await checkBooks(db)).toEqual([])
  })

  test('what is held reaches none, and neither does a job that charges nothing', async () => {
    const { db } = database
    const tenant = await createBareTenant(db, {
      org: { monthLimitMicros: images(4), softBp: [5_000] },
    })
    const jobId = await start(tenant, 4)
    expect(await told(tenant.orgId)).toEqual([])
    await finish(jobId, 0)
    expect(await told(tenant.orgId)).toEqual([])
    await setBudget(db, { scope: 'org', scopeId: tenant.orgId, monthLimitMicros: 0n })
    expect(await told(tenant.orgId)).toEqual([])
    expect(await checkBooks(db)).toEqual([])
  })

  test('twenty charges at once tell a threshold once, to each endpoint that wants it', async () => {
    const { db } = database
    const tenant = await createBareTenant(db, {
      key: { monthLimitMicros: images(20), softBp: [5_000] },
    })
    const { orgId } = tenant
    const urls: Record<string, string[]> = {
      'https://all.example/': [],
      'https://some.example/': ['budget.threshold_reached'],
      'https://other.example/': ['job.failed'],
    }
    for (const [url, eventTypes] of Object.entries(urls)) {
      await insertEndpoint(db, { orgId, url, description: null, eventTypes })
    }
    await Promise.all(Array.from({ length: 20 }, () => buy(tenant)))
    expect(await told(orgId)).toEqual(['key month 5000: 0.15 of 0.3'])
    const sent = await db.sql<{ url: string; state: string }[]>`
      select d.url, d.state from webhook_delivery d join webhook_event e on e.id = d.event_id
       where d.org_id = ${orgId} and e.type = 'budget.threshold_reached' order by d.url`
    expect([...sent]).toEqual([
      { url: 'https://all.example/', state: 'pending' },
      { url: 'https://some.example/', state: 'pending' },
    ])
    expect(await checkBooks(db)).toEqual([])
  })

  test('one or a limit that is set when it is passed already fires with the next charge', async () => {
    const { db } = database
    const tenant = await createBareTenant(db, { team: { monthLimitMicros: images(10) } })
    const team = { scope: 'team', scopeId: tenant.teamId } as const
    await buy(tenant, 2)
    await setBudget(db, { ...team, softBp: [1_000] })
    expect(await told(tenant.orgId)).toEqual([])
    await buy(tenant)
    expect(await told(tenant.orgId)).toEqual(['team month 1000: 0.045 of 0.15'])
    const jobId = await start(tenant)
    await setBudget(db, { ...team, monthLimitMicros: images(3), softBp: [1_000, 9_000] })
    await finish(jobId, 1)
    expect(await told(tenant.orgId)).toEqual([
      'team month 1000: 0.045 of 0.15',
      // Of the limit that was set, though the one in force is still what was committed.
      'team month 9000: 0.06 of 0.045',
    ])
    expect(await checkBooks(db)).toEqual([])
  })

  test('a refund takes no event back, and the same share is not told twice', async () => {
    const { db } = database
    const tenant = await createBareTenant(db, {
      key: { monthLimitMicros: images(4), softBp: [5_000] },
    })
    const { orgId } = tenant
    const jobId = await buy(tenant, 2)
    const once = await told(orgId)
    await refundImages(db, { orgId, jobId, refundId: 'soft-refund', indexes: [0, 1] })
    await buy(tenant, 3)
    expect(once).toHaveLength(1)
    expect(await told(orgId)).toEqual(once)
    expect(await checkBooks(db)).toEqual([])
  })

  test('a new period tells anew; credit that was paid for is no budget', async () => {
    const { db } = database
    const tenant = await createBareTenant(db, {
      settlementMode: 'prepaid',
      org: { creditMicros: images(4), dayLimitMicros: images(2), softBp: [10_000] },
    })
    await buy(tenant, 2)
    await db.sql`
      update budget set period_start = period_start - interval '1 day', period_end = period_start
       where scope_id = ${tenant.orgId} and kind = 'day'`
    await db.sql`
      update reservation r set created_at = r.created_at - interval '1 day'
        from job j where j.id = r.job_id and j.org_id = ${tenant.orgId}`
    await buy(tenant, 2)
    expect(await told(tenant.orgId)).toEqual([
      'org day 10000: 0.03 of 0.03',
      'org day 10000: 0.03 of 0.03',
    ])
    expect(await checkBooks(db)).toEqual([])
  })

  test('shares that are none are refused, and nothing is changed', async () => {
    const { db } = database
    const tenant = await createBareTenant(db)
    const team = { scope: 'team', scopeId: tenant.teamId } as const
    for (const softBp of [[0], [10_001], [5_000, -1], [0.5], [Number.NaN]]) {
      expect(await setBudget(db, { ...team, softBp, monthLimitMicros: 1n })).toEqual({
        ok: false,
        reason: 'invalid_threshold',
      })
    }
    const [, level] = await readBalance(db, tenant)
    expect(level).toMatchObject({ softBp: [], month: { limitMicros: null } })
    await setBudget(db, { ...team, softBp: [8_000, 5_000, 8_000] })
    expect((await readBalance(db, tenant))[1]).toMatchObject({ softBp: [5_000, 8_000] })
    await setBudget(db, { ...team, softBp: null })
    expect((await readBalance(db, tenant))[1]).toMatchObject({ softBp: [] })
  })
})

describe('a limit lowered below what is held and spent', () => {
  const CASES = (['key', 'team', 'org'] as const).flatMap(
    (scope) =>
      [
        { scope, field: 'dayLimitMicros' },
        { scope, field: 'monthLimitMicros' },
        { scope, field: 'creditMicros' },
      ] satisfies { scope: string; field: keyof Limits }[],
  )
  const kinds = { dayLimitMicros: 'day', monthLimitMicros: 'month', creditMicros: 'balance' }

  async function rowOf(scopeId: string, field: keyof typeof kinds) {
    const [row] = await database.db.sql`
      select limit_micros as limit, limit_next_micros as next, held_micros as held, spent_micros as spent
        from budget where scope_id = ${scopeId} and kind = ${kinds[field]}`
    return row
  }

  test.for(CASES)(
    '$field of a $scope: it is stored, refuses from then on, and follows what is committed down',
    async ({ scope, field }) => {
      const { db } = database
      const tenant = await createBareTenant(db, { [scope]: { [field]: images(10) } })
      const scopeId = { key: tenant.keyId, team: tenant.teamId, org: tenant.orgId }[scope]
      await buy(tenant, 2)
      const [charged, dropped] = [await start(tenant, 3), await start(tenant, 2)]
      expect(await setBudget(db, { scope, scopeId, [field]: images(4) })).toEqual({ ok: true })
      expect(await rowOf(scopeId, field)).toEqual({
        limit: images(7),
        next: images(4),
        held: images(5),
        spent: images(2),
      })
      expect(await reserve(db, tenant)).toMatchObject({ ok: false, scope, limitMicros: images(7) })
      await finish(charged, 1)
      expect(await rowOf(scopeId, field)).toEqual({
        limit: images(5),
        next: images(4),
        held: images(2),
        spent: images(3),
      })
      expect(await reserve(db, tenant)).toMatchObject({ ok: false, scope })
      await finish(dropped, 0)
      expect(await rowOf(scopeId, field)).toEqual({
        limit: images(4),
        next: null,
        held: 0n,
        spent: images(3),
      })
      expect(await reserve(db, tenant)).toMatchObject({ ok: true })
      expect(await reserve(db, tenant)).toMatchObject({ ok: false, scope, limitMicros: images(4) })
      expect(await checkBooks(db)).toEqual([])
    },
  )

  test('what was accepted is charged in full, though it passes the new limit', async () => {
    const { db } = database
    const tenant = await createBareTenant(db, { team: { monthLimitMicros: images(9) } })
    const team = { scope: 'team', scopeId: tenant.teamId } as const
    const jobId = await start(tenant, 4)
    await setBudget(db, { ...team, monthLimitMicros: 0n })
    await finish(jobId, 4)
    const [, level] = await readBalance(db, tenant)
    expect(level?.month).toMatchObject({
      limitMicros: images(4),
      limitNextMicros: 0n,
      spentMicros: images(4),
    })
    expect(await checkBooks(db)).toEqual([])
  })

  test('a refund brings it further down; raising or removing it ends the wait', async () => {
    const { db } = database
    const tenant = await createBareTenant(db, { key: { dayLimitMicros: images(9) } })
    const { orgId, keyId } = tenant
    const jobId = await buy(tenant, 4)
    const key = { scope: 'key', scopeId: keyId } as const
    await setBudget(db, { ...key, dayLimitMicros: images(1) })
    await refundImages(db, { orgId, jobId, refundId: 'lowered', indexes: [0, 1] })
    expect(await rowOf(keyId, 'dayLimitMicros')).toMatchObject({
      limit: images(2),
      next: images(1),
    })
    await setBudget(db, { ...key, dayLimitMicros: images(3) })
    expect(await rowOf(keyId, 'dayLimitMicros')).toMatchObject({ limit: images(3), next: null })
    expect(await reserve(db, tenant)).toMatchObject({ ok: true })
    await setBudget(db, { ...key, dayLimitMicros: 0n })
    await setBudget(db, { ...key, dayLimitMicros: null })
    expect(await rowOf(keyId, 'dayLimitMicros')).toMatchObject({ limit: null, next: null })
    expect(await reserve(db, tenant, { n: 9 })).toMatchObject({ ok: true })
    expect(await checkBooks(db)).toEqual([])
  })

  test('the period after it begins at the limit that was set', async () => {
    const { db } = database
    const tenant = await createBareTenant(db, { org: { dayLimitMicros: images(9) } })
    const { orgId } = tenant
    await buy(tenant, 4)
    await setBudget(db, { scope: 'org', scopeId: orgId, dayLimitMicros: images(1) })
    await db.sql`
      update budget set period_start = period_start - interval '1 day', period_end = period_start
       where scope_id = ${orgId} and kind = 'day'`
    await db.sql`
      update reservation r set created_at = r.created_at - interval '1 day'
        from job j where j.id = r.job_id and j.org_id = ${orgId}`
    expect(await reserve(db, tenant, { n: 2 })).toMatchObject({ limitMicros: images(1) })
    expect(await reserve(db, tenant)).toMatchObject({ ok: true })
    expect(await checkBooks(db)).toEqual([])
  })

  test('lowered and raised while jobs are accepted, charged and dropped, the books balance', async () => {
    const { db } = database
    const tenant = await createBareTenant(db, { team: { monthLimitMicros: images(200) } })
    const team = { scope: 'team', scopeId: tenant.teamId, softBp: [2_000, 10_000] } as const
    const work = async (index: number) => {
      const result = await reserve(db, tenant, { n: 2 })
      if (result.ok) await finish(result.jobId, index % 3)
    }
    await Promise.all([
      ...Array.from({ length: 60 }, (_, index) => work(index)),
      ...[5, 90, 1, 40, 0, 300].map((count) =>
        setBudget(db, { ...team, monthLimitMicros: images(count), creditMicros: images(count) }),
      ),
    ])
    expect(await checkBooks(db)).toEqual([])
  })
})
