import { afterAll, beforeAll, expect, test } from 'vitest'
import { closeDatabase, openDatabase, withTransaction } from '../../db/client.ts'
import type { Db } from '../../db/client.ts'
import { settleJob } from '../../billing/settle.ts'
import { claimJob } from '../../db/job-claims.ts'
import { setBudget } from '../../db/orgs.ts'
import { checkBooks } from '../support/books.ts'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { IMAGE_MICROS, createBareTenant, deliver, reserve } from '../support/jobs.ts'
import { until } from '../support/worker.ts'

const NOVEMBER = '2031-11-30T23:59:59Z'
const DECEMBER = '2031-12-01T00:00:01Z'

/** One database whose time stands still: the clock is a row, the start of a transaction is its session's own. */
let database: TestDatabase
/** Sessions whose transactions begin in that month. */
let november: Db
let december: Db

beforeAll(async () => {
  database = await createTestDatabase()
  const { sql } = database.db
  await sql.unsafe(`
    create table wall_clock (at timestamptz);
    insert into wall_clock values ('${NOVEMBER}');
    create function wall_clock() returns timestamptz language sql volatile as 'select at from wall_clock';
    create function transaction_start() returns timestamptz language sql volatile as
      $$ select current_setting('test.transaction_start')::timestamptz $$;
    alter table reservation alter created_at set default transaction_start()`)
  await patch('period_start', 'now()', 'transaction_start()')
  await patch('set_period_limit', 'clock_timestamp()', 'wall_clock()')
  november = await openSession(NOVEMBER)
  december = await openSession(DECEMBER)
})
afterAll(async () => {
  await closeDatabase(november)
  await closeDatabase(december)
  await database.close()
})

async function patch(fn: string, from: string, to: string): Promise<void> {
  const { sql } = database.db
  const [row] = await sql<{ text: string }[]>`
    select pg_get_functiondef(oid) as text from pg_proc where proname = ${fn}`
  if (!row?.text.includes(from)) throw new Error(`${fn} has no text "${from}"`)
  await sql.unsafe(row.text.replace(from, to).replace('STABLE', 'VOLATILE'))
}

async function openSession(transactionStart: string): Promise<Db> {
  const db = openDatabase(database.url, { maxConnections: 1 })
  await db.sql`select set_config('test.transaction_start', ${transactionStart}, false)`
  return db
}

/** A reservation of December holds the rows while the change, begun in November, waits for them. */
async function changeAcrossMidnight(
  tenant: Awaited<ReturnType<typeof createBareTenant>>,
  change: Parameters<typeof setBudget>[1],
) {
  const { sql } = database.db
  await sql`update wall_clock set at = ${NOVEMBER}`
  let changing: ReturnType<typeof setBudget> | undefined
  await withTransaction(december, async (tx) => {
    expect(await reserve(tx, tenant)).toMatchObject({ ok: true })
    changing = setBudget(november, change)
    const isWaiting = async () => {
      const waiting = await sql`
        select 1 from pg_stat_activity
         where datname = current_database() and wait_event_type = 'Lock' and query like '%set_budget%'`
      return waiting.length > 0
    }
    await until(isWaiting, () => 'the change to wait')
    await sql`update wall_clock set at = ${DECEMBER}`
  })
  return await changing
}

/** The midnight is the end of a day and of a month. */
const PERIODS = [
  { kind: 'day', field: 'dayLimitMicros' },
  { kind: 'month', field: 'monthLimitMicros' },
] as const
const CASES = PERIODS.flatMap((period) =>
  (['key', 'team', 'org'] as const).map((scope) => ({ ...period, scope })),
)

function periodsOf(scopeId: string, kind: 'day' | 'month') {
  return database.db.sql`
    select to_char(period_start at time zone 'UTC', 'MM') as month, limit_micros as limit, held_micros as held
      from budget where scope_id = ${scopeId} and kind = ${kind} order by period_start`
}

test.for(CASES)(
  'a limit on the $scope that was lowered while the $kind turned binds the new one',
  async ({ kind, field, scope }) => {
    const tenant = await createBareTenant(database.db, {
      [scope]: { [field]: 10n * IMAGE_MICROS },
    })
    const scopeId = { key: tenant.keyId, team: tenant.teamId, org: tenant.orgId }[scope]
    await reserve(november, tenant, { n: 3 })
    const change = { scope, scopeId, [field]: 2n * IMAGE_MICROS }
    expect(await changeAcrossMidnight(tenant, change)).toEqual({ ok: true })
    const more = []
    for (let call = 0; call < 5; call++) more.push((await reserve(december, tenant)).ok)
    expect(more).toEqual([true, false, false, false, false])
    expect([...(await periodsOf(scopeId, kind))]).toEqual([
      { month: '11', limit: 10n * IMAGE_MICROS, held: 3n * IMAGE_MICROS },
      { month: '12', limit: 2n * IMAGE_MICROS, held: 2n * IMAGE_MICROS },
    ])
    expect(await checkBooks(database.db)).toEqual([])
  },
)

test.for(CASES)(
  'a first limit on the $scope that was set while the $kind turned counts the new one alone',
  async ({ kind, field, scope }) => {
    const tenant = await createBareTenant(database.db)
    const scopeId = { key: tenant.keyId, team: tenant.teamId, org: tenant.orgId }[scope]
    await reserve(november, tenant, { n: 5 })
    const change = { scope, scopeId, [field]: 3n * IMAGE_MICROS }
    expect(await changeAcrossMidnight(tenant, change)).toEqual({ ok: true })
    expect([...(await periodsOf(scopeId, kind))]).toEqual([
      { month: '12', limit: 3n * IMAGE_MICROS, held: IMAGE_MICROS },
    ])
    expect(await reserve(december, tenant, { n: 3 })).toMatchObject({
      reason: 'budget_exceeded',
      period: kind,
    })
    expect(await reserve(december, tenant, { n: 2 })).toMatchObject({ ok: true })
    expect(await checkBooks(database.db)).toEqual([])
  },
)

test.for(PERIODS)('a limit set in the old $kind counts nothing after it', async (period) => {
  const { sql } = database.db
  const { kind, field } = period
  const tenant = await createBareTenant(database.db)
  await sql`update wall_clock set at = ${NOVEMBER}`
  await reserve(november, tenant, { n: 2 })
  const limit = {
    scope: 'org',
    scopeId: tenant.orgId,
    [field]: 3n * IMAGE_MICROS,
  } as const
  await setBudget(november, limit)
  await sql`update wall_clock set at = ${DECEMBER}`
  expect(await reserve(december, tenant, { n: 3 })).toMatchObject({ ok: true })
  // A call that began before midnight and gets its turn after it counts in its own day and month.
  expect(await reserve(november, tenant)).toMatchObject({ ok: true })
  expect(await reserve(november, tenant)).toMatchObject({ reason: 'budget_exceeded' })
  expect([...(await periodsOf(tenant.orgId, kind))]).toEqual([
    { month: '11', limit: 3n * IMAGE_MICROS, held: 3n * IMAGE_MICROS },
    { month: '12', limit: 3n * IMAGE_MICROS, held: 3n * IMAGE_MICROS },
  ])
  expect(await checkBooks(database.db)).toEqual([])
})

test('a threshold tells of the day and of the month that the job was accepted in', async () => {
  const { sql } = database.db
  const tenant = await createBareTenant(database.db, {
    team: {
      dayLimitMicros: 2n * IMAGE_MICROS,
      monthLimitMicros: 2n * IMAGE_MICROS,
      softBp: [5000],
    },
  })
  const result = await reserve(november, tenant)
  if (!result.ok) throw new Error(result.reason)
  await reserve(december, tenant)
  await claimJob(december, {
    jobId: result.jobId,
    workerId: 'w',
    leaseSeconds: 60,
    maxFailedAttempts: 3,
  })
  await deliver(december, result.jobId, 1)
  await settleJob(december, { jobId: result.jobId, attempt: 1, outcome: 'succeeded' })
  const told = await sql`
    select payload->'data'->>'period' as period, payload->'data'->>'resets_at' as resets_at
      from webhook_event where org_id = ${tenant.orgId} and type = 'budget.threshold_reached' order by 1`
  expect([...told]).toEqual([
    { period: 'day', resets_at: '2031-12-01T00:00:00.000Z' },
    { period: 'month', resets_at: '2031-12-01T00:00:00.000Z' },
  ])
  expect(await checkBooks(database.db)).toEqual([])
})
