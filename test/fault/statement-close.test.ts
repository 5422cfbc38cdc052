import { createHash } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { closeStatement, listClosed, readStatement } from '../../billing/statement/close.ts'
import type { StatementDocument } from '../../billing/statement/document.ts'
import { exportStatement } from '../../billing/statement/export.ts'
import { monthOf, parseMonth } from '../../billing/statement/month.ts'
import { closeDatabase, openDatabase } from '../../db/client.ts'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { createBareKey, createBareTenant, deliver } from '../support/jobs.ts'
import { settleJob } from '../../billing/settle.ts'
import { claimJob } from '../../db/job-claims.ts'
import { buyAt, holdAt, refundAt, rewrite, textOf } from '../support/statement-world.ts'

const JULY = parseMonth('2026-07')!
const AUGUST = parseMonth('2026-08')!
const AT = new Date('2026-07-10T12:00:00Z')

let database: TestDatabase

beforeAll(async () => {
  database = await createTestDatabase()
})
afterAll(() => database.close())

async function documentOf(orgId: string, teamId: string | null, month = JULY) {
  const file = await readStatement(database.db, { orgId, teamId, month })
  return JSON.parse(file!.json) as StatementDocument
}

describe('closing', () => {
  test('a month is closed once: the bytes and their hash stay, whatever happens later', async () => {
    const { db } = database
    const tenant = await createBareTenant(db)
    const scope = { orgId: tenant.orgId, teamId: null, month: JULY }
    const jobId = await buyAt(db, tenant, { n: 2, delivered: 2, at: AT })
    const closed = await closeStatement(db, scope)
    if (!closed.ok) throw new Error(closed.reason)
    const { json, sha256 } = closed.file
    expect(createHash('sha256').update(json).digest('hex')).toBe(sha256)

    await db.sql`update org set name = 'Renamed' where id = ${tenant.orgId}`
    await db.sql`update api_key set tags = '{"a": "b"}' where id = ${tenant.keyId}`
    await refundAt(db, { usageId: `use_${jobId.slice(4)}_0`, at: new Date('2026-08-02T00:00:00Z') })
    for (const file of [await readStatement(db, scope), (await again()).file])
      expect([file!.json, file!.sha256]).toEqual([json, sha256])
    const august = await documentOf(tenant.orgId, null, AUGUST)
    expect(august.earlier_periods).toMatchObject({ images: -1, net: '-0.015000' })
    expect(august.org.name).toBe('Renamed')

    async function again() {
      const result = await closeStatement(db, scope)
      if (!result.ok) throw new Error(result.reason)
      expect(result.repeated).toBe(true)
      return result
    }
  })

  test('every form of a closed month keeps its bytes when names, tags and teams of keys change', async () => {
    const { db } = database
    const tenant = await createBareTenant(db)
    const scope = { orgId: tenant.orgId, teamId: null, month: JULY }
    await buyAt(db, tenant, { n: 2, delivered: 2, at: AT })
    await closeStatement(db, scope)
    const forms = ['json', 'csv', 'html', 'focus'] as const
    const read = () =>
      Promise.all(
        forms.map(async (format) => {
          const made = await exportStatement(db, scope, { format, focus: { version: '1.4' } })
          return await textOf(made!.body)
        }),
      )
    const before = await read()
    await db.sql`update org set name = 'Other' where id = ${tenant.orgId}`
    await db.sql`update team set name = 'Other', cost_centre = 'other' where id = ${tenant.teamId}`
    await db.sql`update api_key set name = 'Other', tags = '{"x": 1}' where id = ${tenant.keyId}`
    expect(await read()).toEqual(before)
  })

  test('a closed statement cannot be changed, deleted or truncated', async () => {
    const { db } = database
    const tenant = await createBareTenant(db)
    await closeStatement(db, { orgId: tenant.orgId, teamId: null, month: JULY })
    const { orgId } = tenant
    for (const change of [
      db.sql`update statement set document = 'x' where org_id = ${orgId}`,
      db.sql`delete from statement where org_id = ${orgId}`,
      db.sql`truncate statement`,
    ])
      await expect(change).rejects.toThrow('append-only')
  })

  test('of many closings at once one stores, and all get its bytes', async () => {
    const { db } = database
    const tenant = await createBareTenant(db)
    await buyAt(db, tenant, { n: 1, delivered: 1, at: AT })
    const scope = { orgId: tenant.orgId, teamId: null, month: JULY }
    const results = await Promise.all(Array.from({ length: 8 }, () => closeStatement(db, scope)))
    const files = results.map((result) => (result.ok ? result.file : null))
    expect(new Set(files.map((file) => file?.sha256)).size).toBe(1)
    expect(files.every((file) => file?.closedAt?.getTime() === files[0]?.closedAt?.getTime())).toBe(
      true,
    )
    expect(results.filter((result) => result.ok && !result.repeated)).toHaveLength(1)
    expect(await listClosed(db, scope)).toMatchObject([{ month: '2026-07' }])
  })

  test('a month that is not over, or ended within the grace, is not closed', async () => {
    const { db } = database
    const { orgId } = await createBareTenant(db)
    const close = (month: typeof JULY) => closeStatement(db, { orgId, teamId: null, month })
    expect(await close(monthOf(new Date()))).toEqual({ ok: false, reason: 'not_over' })
    const ended = (secondsAgo: number) => ({
      ...JULY,
      end: new Date(Date.now() - secondsAgo * 1000),
    })
    expect(await close(ended(50))).toEqual({ ok: false, reason: 'not_over' })
    expect(await close(ended(70))).toMatchObject({ ok: true })
  })

  test('a transaction from before the end of the month that is still open keeps it from closing', async () => {
    const { db } = database
    const tenant = await createBareTenant(db)
    const second = openDatabase(database.url, { maxConnections: 1 })
    const [{ end }] = await second.sql.begin(async (sql) => {
      const [row] = await sql<{ at: Date }[]>`select now() as at`
      // Ended by now, and begun before the end of the month that the test means.
      const month = { ...JULY, end: new Date(row!.at.getTime() + 1) }
      const scope = { orgId: tenant.orgId, teamId: null, month }
      expect(await closeStatement(db, scope, { graceSeconds: 0 })).toEqual({
        ok: false,
        reason: 'still_settling',
      })
      return [month] as const
    })
    const scope = { orgId: tenant.orgId, teamId: null, month: { ...JULY, end } }
    expect(await closeStatement(db, scope, { graceSeconds: 0 })).toMatchObject({ ok: true })
    await closeDatabase(second)
  })

  test('a line dated into a closed month is refused, and settling again dates it into its own', async () => {
    const { db } = database
    const tenant = await createBareTenant(db)
    const jobId = await holdAt(db, tenant, { n: 1, at: AT })
    await claimJob(db, { jobId, workerId: 'w', leaseSeconds: 60, maxFailedAttempts: 3 })
    await deliver(db, jobId, 1)
    await closeStatement(db, { orgId: tenant.orgId, teamId: null, month: JULY })
    await settleJob(db, { jobId, attempt: 1, outcome: 'succeeded' })
    const late = db.sql`
      insert into usage_event (id, job_id, idx, org_id, team_id, key_id, sku_id, price_version_id, list_version_id,
                               list_micros, discount_micros, net_micros, occurred_at)
      select id || 'x', job_id, 9, org_id, team_id, key_id, sku_id, price_version_id, list_version_id,
             list_micros, discount_micros, net_micros, ${AT} from usage_event where job_id = ${jobId}`
    await expect(late).rejects.toThrow('is closed')
    const { month } = monthOf(new Date())
    expect((await documentOf(tenant.orgId, null, parseMonth(month)!)).usage.images).toBe(1)
  })

  test('nothing is closed on books that differ', async () => {
    const { db } = database
    const tenant = await createBareTenant(db)
    const jobId = await buyAt(db, tenant, { n: 2, delivered: 2, at: AT })
    await rewrite(
      db,
      ({ sql }) => sql`
      delete from usage_event where job_id = ${jobId} and idx = 1`,
    )
    const scope = { orgId: tenant.orgId, teamId: null, month: JULY }
    expect(await closeStatement(db, scope)).toEqual({
      ok: false,
      reason: 'books_differ',
      usageMicros: 15_000n,
      ledgerMicros: 30_000n,
    })
    expect(await listClosed(db, scope)).toEqual([])
  })

  test('there is no statement of an unknown org or of a team of another org', async () => {
    const { db } = database
    const [one, other] = [await createBareTenant(db), await createBareTenant(db)]
    const unknown = { orgId: 'org_none', teamId: null, month: JULY }
    const foreign = { orgId: one.orgId, teamId: other.teamId, month: JULY }
    for (const scope of [unknown, foreign]) {
      expect(await readStatement(db, scope)).toBeNull()
      expect(await closeStatement(db, scope)).toEqual({ ok: false, reason: 'not_found' })
    }
  })
})

describe('the document', () => {
  test('the last millisecond of a month is in it and the first of the next is not', async () => {
    const { db } = database
    const tenant = await createBareTenant(db)
    await buyAt(db, tenant, { n: 1, delivered: 1, at: JULY.start })
    await buyAt(db, tenant, { n: 2, delivered: 2, at: new Date(JULY.end.getTime() - 1) })
    await buyAt(db, tenant, { n: 4, delivered: 4, at: JULY.end })
    const document = await documentOf(tenant.orgId, null)
    expect(document.total.images).toBe(3)
    expect(document.by_day.map(({ day, total }) => [day, total.images])).toEqual([
      ['2026-07-01', 1],
      ['2026-07-31', 2],
    ])
  })

  test('a hold that was open when the month ended is listed in it, also after it was settled', async () => {
    const { db } = database
    const tenant = await createBareTenant(db)
    const jobId = await holdAt(db, tenant, { n: 3, at: new Date('2026-07-31T23:59:00Z') })
    const open = { count: 1, amount: '0.045000', listed: [{ job_id: jobId }] }
    expect((await documentOf(tenant.orgId, null)).open_holds).toMatchObject(open)
    await claimJob(db, { jobId, workerId: 'w', leaseSeconds: 60, maxFailedAttempts: 3 })
    await deliver(db, jobId, 1)
    await settleJob(db, { jobId, attempt: 1, outcome: 'succeeded' })
    const july = await documentOf(tenant.orgId, null)
    expect(july.open_holds).toMatchObject(open)
    expect(july.total.images).toBe(0)
  })

  test("an internal org's statement shows its cost posted to recovery, a team's its own part", async () => {
    const { db } = database
    const tenant = await createBareTenant(db, { settlementMode: 'internal' })
    const other = { orgId: tenant.orgId, ...(await createBareKey(db, tenant.orgId)) }
    await buyAt(db, tenant, { n: 3, delivered: 2, at: AT })
    await buyAt(db, other, { n: 1, delivered: 1, at: AT })
    const cost = (amount: string) => ({
      type: 'team_cost',
      opening: '0.000000',
      movements: [{ kind: 'charge', amount }],
      closing: amount,
    })
    expect((await documentOf(tenant.orgId, null)).account).toEqual(cost('0.045000'))
    expect((await documentOf(tenant.orgId, tenant.teamId)).account).toEqual(cost('0.030000'))
    expect((await documentOf(tenant.orgId, other.teamId)).account).toEqual(cost('0.015000'))
  })

  test("a prepaid org's credit is carried from month to month", async () => {
    const { db } = database
    const tenant = await createBareTenant(db, {
      settlementMode: 'prepaid',
      org: { creditMicros: 1_000_000n },
    })
    await rewrite(
      db,
      ({ sql }) => sql`
      update ledger_txn set occurred_at = ${AT} where source_id = ${`opening:${tenant.orgId}`}`,
    )
    await buyAt(db, tenant, { n: 2, delivered: 2, at: AT })
    await buyAt(db, tenant, { n: 1, delivered: 1, at: AUGUST.start })
    expect((await documentOf(tenant.orgId, null)).account).toEqual({
      type: 'prepaid',
      opening: '0.000000',
      movements: [
        { kind: 'charge', amount: '-0.030000' },
        { kind: 'credit', amount: '1.000000' },
      ],
      closing: '0.970000',
    })
    expect((await documentOf(tenant.orgId, null, AUGUST)).account).toMatchObject({
      opening: '0.970000',
      closing: '0.955000',
    })
    expect((await documentOf(tenant.orgId, tenant.teamId)).account).toBeNull()
  })
})
