import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { ReserveResult } from '../../billing/reserve.ts'
import { reserveJob } from '../../billing/reserve.ts'
import { findJob } from '../../db/jobs.ts'
import { revokeKey } from '../../db/keys.ts'
import { setBudget } from '../../db/orgs.ts'
import { checkBooks } from '../support/books.ts'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import {
  IMAGE_MICROS,
  LIST_PRICE,
  createBareKey,
  createBareTenant,
  newJob,
  reserve,
} from '../support/jobs.ts'

let database: TestDatabase
beforeAll(async () => {
  database = await createTestDatabase({ maxConnections: 48 })
})
afterAll(() => database.close())

function count(results: ReserveResult[], reason: string): number {
  return results.filter((result) => !result.ok && result.reason === reason).length
}

describe('caps under concurrency', () => {
  test('300 callers on an org credit of exactly 100 images: 100 admitted, books balance', async () => {
    const { db } = database
    const tenant = await createBareTenant(db, {
      settlementMode: 'prepaid',
      org: { creditMicros: 100n * IMAGE_MICROS },
    })
    const keys = await Promise.all([1, 2, 3, 4].map(() => createBareKey(db, tenant.orgId)))
    const results = await Promise.all(
      Array.from({ length: 300 }, (_, index) =>
        reserve(db, { ...tenant, ...keys[index % keys.length] }),
      ),
    )
    expect(results.filter((result) => result.ok)).toHaveLength(100)
    expect(count(results, 'insufficient_credit')).toBe(200)
    expect(await checkBooks(db)).toEqual([])
  })

  test('a team month budget of 7 images admits 7 of 100, one caller asking for 3 at a time never passes it', async () => {
    const { db } = database
    const tenant = await createBareTenant(db, { team: { monthLimitMicros: 7n * IMAGE_MICROS } })
    const results = await Promise.all(
      Array.from({ length: 100 }, (_, index) => reserve(db, tenant, { n: (index % 3) + 1 })),
    )
    const admitted = results.filter((result) => result.ok).length
    expect(admitted).toBeGreaterThan(2)
    const refused = results.find((result) => !result.ok && result.reason === 'budget_exceeded')
    expect(refused).toMatchObject({ scope: 'team', limitMicros: 7n * IMAGE_MICROS })
    expect(refused && 'resetsAt' in refused && refused.resetsAt).toBeInstanceOf(Date)
    expect(await checkBooks(db)).toEqual([])
    const [row] = await db.sql`
      select held_micros from budget where scope_id = ${tenant.teamId} and kind = 'month'`
    expect(row?.held_micros).toBeLessThanOrEqual(7n * IMAGE_MICROS)
    expect(row?.held_micros).toBeGreaterThan(4n * IMAGE_MICROS)
  })

  test('a key with 5 jobs in flight at most admits 5 of 200', async () => {
    const { db } = database
    const tenant = await createBareTenant(db, { key: { maxInflight: 5 } })
    const results = await Promise.all(Array.from({ length: 200 }, () => reserve(db, tenant)))
    expect(results.filter((result) => result.ok)).toHaveLength(5)
    expect(count(results, 'too_many_inflight')).toBe(195)
    expect(await checkBooks(db)).toEqual([])
  })

  test('one idempotency key from 50 callers at once is one job and one hold', async () => {
    const { db } = database
    const tenant = await createBareTenant(db)
    const results = await Promise.all(
      Array.from({ length: 50 }, () => reserve(db, tenant, { idempotencyKey: 'order-1' })),
    )
    const jobs = new Set(results.map((result) => result.ok && result.jobId))
    expect(jobs.size).toBe(1)
    expect(results.filter((result) => result.ok && !result.replayed)).toHaveLength(1)
    expect(await checkBooks(db)).toEqual([])
  })
})

function nextMonth(): Date {
  const now = new Date()
  return new Date(Date.UTC(now.getUTCFullYear(), now.getUTCMonth() + 1, 1))
}

describe('refusals leave nothing behind', () => {
  async function wholeState(): Promise<string> {
    const tables = [
      'job',
      'budget',
      'reservation',
      'reservation_leg',
      'outbox',
      'ledger_txn',
      'ledger_entry',
    ]
    const parts = await Promise.all(
      tables.map(
        (name) =>
          database.db
            .sql`select count(*)::int as rows, md5(string_agg(t::text, '|' order by t::text)) as digest
                          from ${database.db.sql(name)} t`,
      ),
    )
    return JSON.stringify(parts)
  }

  test('credit, month, in-flight, revoked key and changed body: every table is as before', async () => {
    const { db } = database
    const poor = await createBareTenant(db, { settlementMode: 'prepaid' })
    const capped = await createBareTenant(db, { org: { monthLimitMicros: 1n } })
    const busy = await createBareTenant(db, { team: { maxInflight: 0 } })
    const revoked = await createBareTenant(db)
    await revokeKey(db, revoked)
    const once = await createBareTenant(db)
    const first = await reserve(db, once, { idempotencyKey: 'same' })
    // The month row of a capped level is made with the first job that may hold on it.
    const before = await wholeState()
    expect(await reserve(db, poor)).toMatchObject({ reason: 'insufficient_credit', scope: 'org' })
    expect(await reserve(db, busy)).toMatchObject({ reason: 'too_many_inflight', scope: 'team' })
    expect(await reserve(db, capped)).toMatchObject({ reason: 'budget_exceeded', scope: 'org' })
    expect(await reserve(db, revoked)).toEqual({ ok: false, reason: 'key_inactive' })
    expect(await reserve(db, once, { idempotencyKey: 'same', requestHash: 'another' })).toEqual({
      ok: false,
      reason: 'idempotency_mismatch',
      jobId: first.ok && first.jobId,
    })
    expect(await wholeState()).toBe(before)
  })

  test('before a month`s first job too: a refusal writes nothing and takes no number', async () => {
    const { db } = database
    const levels = [
      await createBareTenant(db, { key: { monthLimitMicros: IMAGE_MICROS - 1n } }),
      await createBareTenant(db, { team: { monthLimitMicros: 0n } }),
      await createBareTenant(db, { org: { monthLimitMicros: IMAGE_MICROS - 1n } }),
    ]
    await db.sql.begin(async (sql) => {
      const tx = { ...db, sql: sql as unknown as typeof db.sql }
      for (const [index, scope] of (['key', 'team', 'org'] as const).entries()) {
        const refused = await reserve(tx, levels[index] ?? levels[0]!)
        expect(refused).toMatchObject({ reason: 'budget_exceeded', scope, spentMicros: 0n })
        expect(refused).toHaveProperty('resetsAt', nextMonth())
      }
      // Without a number a transaction has written nothing to the log of the database.
      const [row] = await sql`select pg_current_xact_id_if_assigned() as xid`
      expect(row?.xid).toBeNull()
    })
  })

  test('fewer jobs in flight than there are is refused as a limit and changes nothing', async () => {
    const { db } = database
    const tenant = await createBareTenant(db, { team: { maxInflight: 4 } })
    await reserve(db, tenant)
    await reserve(db, tenant)
    const before = await wholeState()
    const change = { scope: 'team', scopeId: tenant.teamId, maxInflight: 1 } as const
    expect(await setBudget(db, { ...change, monthLimitMicros: 9n, softBp: [1] })).toEqual({
      ok: false,
      reason: 'below_committed',
    })
    expect(await wholeState()).toBe(before)
  })

  test('a foreign key of another org reserves nothing', async () => {
    const { db } = database
    const mine = await createBareTenant(db)
    const theirs = await createBareTenant(db)
    expect(await reserve(db, { ...mine, keyId: theirs.keyId })).toEqual({
      ok: false,
      reason: 'key_inactive',
    })
  })
})

test('the level with the fewest free places is told, this job counted', async () => {
  const { db } = database
  const tenant = await createBareTenant(db, {
    key: { maxInflight: 9 },
    team: { maxInflight: 3 },
    org: { maxInflight: 100 },
  })
  expect(await reserve(db, tenant)).toMatchObject({ places: { inflight: 1, maxInflight: 3 } })
  expect(await reserve(db, tenant)).toMatchObject({ places: { inflight: 2, maxInflight: 3 } })
  expect(await reserve(db, await createBareTenant(db))).toMatchObject({ places: null })
})

test('a reservation is seen whole: job, hold and message commit together', async () => {
  const { db } = database
  const tenant = await createBareTenant(db)
  const job = newJob(tenant, { n: 2, callerFields: { request_id: 'abc' } })
  await reserveJob(db, { job, price: LIST_PRICE })
  const found = await findJob(db, { orgId: tenant.orgId, jobId: job.id })
  expect(found?.job).toMatchObject({ state: 'accepted', n: 2, callerFields: { request_id: 'abc' } })
  expect(found?.reservation).toMatchObject({ state: 'held', amountMicros: 30_000n })
  expect(await findJob(db, { orgId: 'org_other', jobId: job.id })).toBeNull()
})

test('the invariant check catches a reserve that chains its updates in one statement', async () => {
  // The tempting form: three conditional updates as CTEs. One statement, but a refusal at the org leaves
  // the key and the team held.
  const seeded = await createTestDatabase({ maxConnections: 16 })
  try {
    const { db } = seeded
    await db.sql.unsafe(readFileSync('test/fault/chained-reserve.sql', 'utf8'))
    const tenant = await createBareTenant(db, { org: { creditMicros: 5n * IMAGE_MICROS } })
    await Promise.all(Array.from({ length: 40 }, () => reserve(db, tenant)))
    expect((await checkBooks(db)).join('\n')).toMatch(/held on a budget row/)
  } finally {
    await seeded.close()
  }
})
