import { afterAll, beforeAll, expect, test } from 'vitest'
import { moveKey, setKeyTags } from '../../billing/move-key.ts'
import { settleJob } from '../../billing/settle.ts'
import { closeStatement, readStatement } from '../../billing/statement/close.ts'
import type { StatementDocument } from '../../billing/statement/document.ts'
import { monthOf, parseMonth } from '../../billing/statement/month.ts'
import { claimJob } from '../../db/job-claims.ts'
import { createTeam } from '../../db/orgs.ts'
import { checkBooks } from '../support/books.ts'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { createBareTenant, deliver, reserve } from '../support/jobs.ts'
import type { BareTenant } from '../support/jobs.ts'
import { buyAt, holdAt, refundAt } from '../support/statement-world.ts'

const JULY = parseMonth('2026-07')!
const AUGUST = parseMonth('2026-08')!
const NOW = () => monthOf(new Date())

let database: TestDatabase

beforeAll(async () => {
  database = await createTestDatabase()
})
afterAll(async () => {
  expect(await checkBooks(database.db)).toEqual([])
  await database.close()
})

async function createPair(
  settlementMode: 'postpaid' | 'internal' = 'postpaid',
): Promise<{ tenant: BareTenant; other: string }> {
  const tenant = await createBareTenant(database.db, { settlementMode })
  const { teamId } = await createTeam(database.db, {
    orgId: tenant.orgId,
    name: 'Spring',
    costCentre: 'CC-2',
  })
  return { tenant, other: teamId }
}

async function dueOf(tenant: BareTenant, teamId: string | null, month = NOW()) {
  const file = await readStatement(database.db, { orgId: tenant.orgId, teamId, month })
  const document = JSON.parse(file!.json) as StatementDocument
  return [document.total.images, document.total.due]
}

test('usage since a date in the past moves by corrections of today; older usage and closed months stay', async () => {
  const { db } = database
  const { tenant, other } = await createPair()
  await buyAt(db, tenant, { n: 4, delivered: 4, at: new Date('2026-07-10T00:00:00Z') })
  await buyAt(db, tenant, { n: 2, delivered: 2, at: new Date('2026-07-20T00:00:00Z') })
  await buyAt(db, tenant, { n: 1, delivered: 1, at: new Date('2026-08-20T00:00:00Z') })
  const scope = { orgId: tenant.orgId, teamId: tenant.teamId, month: JULY }
  const closed = await closeStatement(db, scope)
  const input = { keyId: tenant.keyId, teamId: other, validFrom: new Date('2026-07-15T00:00:00Z') }

  expect(await moveKey(db, input)).toMatchObject({
    ok: true,
    movedLines: 3,
    movedMicros: 45_000n,
    isComplete: true,
  })
  expect(await readStatement(db, scope)).toEqual(closed.ok && closed.file)
  expect(await dueOf(tenant, tenant.teamId, AUGUST)).toEqual([1, '0.015000'])
  expect(await dueOf(tenant, tenant.teamId)).toEqual([-3, '-0.045000'])
  expect(await dueOf(tenant, other)).toEqual([3, '0.045000'])
  expect(await dueOf(tenant, null)).toEqual([0, '0.000000'])
})

test('a repeat moves nothing twice, and two calls at once move each line once', async () => {
  const { db } = database
  const { tenant, other } = await createPair()
  await buyAt(db, tenant, { n: 3, delivered: 3, at: JULY.start })
  const input = { keyId: tenant.keyId, teamId: other, validFrom: JULY.start }
  const both = await Promise.all([moveKey(db, input), moveKey(db, input), moveKey(db, input)])
  expect(both.reduce((sum, result) => sum + (result.ok ? result.movedLines : 0), 0)).toBe(3)
  expect(await moveKey(db, input)).toMatchObject({ ok: true, movedLines: 0 })
  expect(await dueOf(tenant, other)).toEqual([3, '0.045000'])
  const [row] = await db.sql`select count(*) from key_assignment where key_id = ${tenant.keyId}`
  expect(row).toEqual({ count: 1n })
})

test('a line moved on takes its refund along, and moved back it is where it was', async () => {
  const { db } = database
  const { tenant, other } = await createPair()
  const { teamId: third } = await createTeam(db, {
    orgId: tenant.orgId,
    name: 'Third',
    costCentre: 'CC-3',
  })
  const jobId = await buyAt(db, tenant, { n: 2, delivered: 2, at: JULY.start })
  const move = (teamId: string) =>
    moveKey(db, { keyId: tenant.keyId, teamId, validFrom: JULY.start })
  await move(other)
  await refundAt(db, { usageId: `use_${jobId.slice(4)}_0`, at: new Date() })
  expect(await dueOf(tenant, other)).toEqual([1, '0.015000'])
  await move(third)
  expect(await dueOf(tenant, other)).toEqual([0, '0.000000'])
  expect(await dueOf(tenant, third)).toEqual([1, '0.015000'])
  await move(tenant.teamId)
  expect(await dueOf(tenant, third)).toEqual([0, '0.000000'])
  // Two in July, and of them one given back.
  expect(await dueOf(tenant, tenant.teamId)).toEqual([-1, '-0.015000'])
})

test('new jobs count on the new team, open holds stay on their legs, and a repeat moves what they cost', async () => {
  const { db } = database
  const { tenant, other } = await createPair()
  const jobId = await holdAt(db, tenant, { n: 1, at: new Date() })
  const input = { keyId: tenant.keyId, teamId: other, validFrom: new Date(Date.now() - 60_000) }
  await moveKey(db, input)
  expect(await reserve(db, tenant)).toMatchObject({ ok: false, reason: 'key_inactive' })
  expect(await reserve(db, { ...tenant, teamId: other })).toMatchObject({ ok: true })
  const held = await db.sql`
    select scope_id, held_micros from budget where scope = 'team' and scope_id in (${tenant.teamId}, ${other})
     order by scope_id = ${other}`
  expect(held.map((row) => row.held_micros)).toEqual([15_000n, 15_000n])

  await claimJob(db, { jobId, workerId: 'w', leaseSeconds: 60, maxFailedAttempts: 3 })
  await deliver(db, jobId, 1)
  await settleJob(db, { jobId, attempt: 1, outcome: 'succeeded' })
  expect(await dueOf(tenant, tenant.teamId)).toEqual([1, '0.015000'])
  expect(await moveKey(db, input)).toMatchObject({ ok: true, movedLines: 1 })
  expect(await dueOf(tenant, tenant.teamId)).toEqual([0, '0.000000'])
  expect(await dueOf(tenant, other)).toEqual([1, '0.015000'])
})

test('for an internal org whose teams have accounts the cost moves between them, once', async () => {
  const { db } = database
  const { tenant, other } = await createPair('internal')
  for (const team of [tenant.teamId, other])
    await db.sql`
      insert into ledger_account (id, org_id, team_id, type)
      values (${`team_cost:${team}`}, ${tenant.orgId}, ${team}, 'team_cost') on conflict do nothing`
  await buyAt(db, tenant, { n: 3, delivered: 3, at: JULY.start })
  const input = { keyId: tenant.keyId, teamId: other, validFrom: JULY.start }
  await moveKey(db, input)
  await moveKey(db, input)
  const moved = await db.sql<{ team: string; amount: bigint }[]>`
    select a.team_id as team, sum(e.amount_micros)::bigint as amount
      from ledger_entry e join ledger_account a on a.id = e.account_id join ledger_txn t on t.id = e.txn_id
     where a.org_id = ${tenant.orgId} and a.type = 'team_cost' and t.kind = 'move' group by 1`
  expect(new Map(moved.map(({ team, amount }) => [team, amount]))).toEqual(
    new Map([
      [tenant.teamId, -45_000n],
      [other, 45_000n],
    ]),
  )
})

test('more lines than one step takes all move, and a move that died goes on where it stopped', async () => {
  const { db } = database
  const { tenant, other } = await createPair()
  const jobId = await buyAt(db, tenant, { n: 1, delivered: 1, at: JULY.start })
  await manyLines(jobId, 2_500)
  const input = { keyId: tenant.keyId, teamId: other, validFrom: JULY.start }
  // The first step of a call that ended there.
  const assignment = 'kas_00000000000000000000000000'
  await db.sql`select move_key(${tenant.keyId}, ${other}, ${JULY.start}, ${assignment})`
  await db.sql`select correct_moved_usage(${assignment}, '-infinity', '', 1000)`
  expect(await moveKey(db, input)).toMatchObject({ ok: true, movedLines: 1_501, isComplete: true })
  expect((await dueOf(tenant, other))[0]).toBe(2_501)
  await db.sql.begin(async (sql) => {
    await sql`set local session_replication_role = replica`
    await sql`delete from usage_correction where usage_event_id like ${`many_${jobId}%`}`
    await sql`delete from usage_event where id like ${`many_${jobId}%`}`
  })

  /** Lines without jobs, taken away again: a thousand at one instant, so that a page ends between equals. */
  async function manyLines(of: string, count: number) {
    await db.sql.begin(async (sql) => {
      await sql`set local session_replication_role = replica`
      await sql`
        insert into usage_event (id, job_id, idx, org_id, team_id, key_id, sku_id, price_version_id, list_version_id,
                                 list_micros, discount_micros, net_micros, occurred_at)
        select ${`many_${of}_`} || n, job_id, n, org_id, team_id, key_id, sku_id, price_version_id, list_version_id,
               list_micros, 0, net_micros, occurred_at + make_interval(secs => n / 1000 * 0.000001)
          from usage_event, generate_series(1, ${count}::int) n where job_id = ${of} and idx = 0`
    })
  }
})

test('a move is refused to a team of another org, of an unknown key, and into the future', async () => {
  const { db } = database
  const { tenant, other } = await createPair()
  const stranger = await createBareTenant(db)
  const move = (keyId: string, teamId: string, validFrom = JULY.start) =>
    moveKey(db, { keyId, teamId, validFrom })
  expect(await move(tenant.keyId, stranger.teamId)).toEqual({ ok: false, reason: 'team_not_found' })
  expect(await move('key_none', other)).toEqual({ ok: false, reason: 'key_not_found' })
  const later = new Date(Date.now() + 3_600_000)
  expect(await move(tenant.keyId, other, later)).toEqual({ ok: false, reason: 'in_future' })
})

test('tags are those of today in a month that is open', async () => {
  const { db } = database
  const { tenant } = await createPair()
  await buyAt(db, tenant, { n: 1, delivered: 1, at: JULY.start })
  const tags = { project: 'spring' }
  expect(await setKeyTags(db, { ...tenant, tags })).toBe(true)
  expect(await setKeyTags(db, { ...tenant, orgId: 'org_none', tags: {} })).toBe(false)
  const file = await readStatement(db, { orgId: tenant.orgId, teamId: null, month: JULY })
  expect((JSON.parse(file!.json) as StatementDocument).keys).toMatchObject([{ tags }])
})
