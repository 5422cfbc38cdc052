import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { foldBalances, readTrialBalance } from '../../billing/balances.ts'
import { settleJob } from '../../billing/settle.ts'
import { withTransaction } from '../../db/client.ts'
import type { Db } from '../../db/client.ts'
import { claimJob } from '../../db/job-claims.ts'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { createBareTenant, deliver, reserve } from '../support/jobs.ts'
import type { BareTenant } from '../support/jobs.ts'
import { until } from '../support/worker.ts'

let database: TestDatabase
let tenant: BareTenant
beforeAll(async () => {
  database = await createTestDatabase({ maxConnections: 16 })
})
afterAll(() => database.close())
beforeEach(async () => {
  tenant = await createBareTenant(database.db, { settlementMode: 'internal' })
})

async function buy(db: Db): Promise<void> {
  const result = await reserve(db, tenant)
  if (!result.ok) throw new Error(result.reason)
  const { jobId } = result
  await claimJob(db, { jobId, workerId: 'w', leaseSeconds: 60, maxFailedAttempts: 3 })
  await deliver(db, jobId, 1)
  await settleJob(db, { jobId, attempt: 1, outcome: 'succeeded' })
}

/** As some sweeps do: noting what is complete and folding it take a call each. */
async function foldSome(): Promise<number> {
  let folded = 0
  for (let call = 0; call < 4; call++) folded += await foldBalances(database.db, { limit: 10_000 })
  return folded
}

/** Until nothing is left; transactions of other databases of the server hold it up too. */
async function foldAll(): Promise<number> {
  let folded = 0
  await until(
    async () => {
      folded += await foldSome()
      return (await countUnfolded()) === 0n
    },
    () => 'all entries to be folded',
  )
  return folded
}

/** The projection and the entries up to its watermark, account by account. */
async function projected() {
  const { sql } = database.db
  const rows = await sql`
    select account_id, pending_micros::text as pending, posted_micros::text as posted
      from ledger_balance order by account_id`
  const facts = await sql`
    select account_id, coalesce(sum(amount_micros) filter (where phase = 'pending'), 0)::text as pending,
           coalesce(sum(amount_micros) filter (where phase = 'posted'), 0)::text as posted
      from ledger_entry where id <= (select folded_to from ledger_watermark where projection = 'balances')
     group by account_id order by account_id`
  return { rows: [...rows], facts: [...facts] }
}

async function countUnfolded(): Promise<bigint | undefined> {
  const [row] = await database.db.sql<{ count: bigint }[]>`
    select count(*) from ledger_entry
     where id > (select folded_to from ledger_watermark where projection = 'balances')`
  return row?.count
}

test('balances are the sums of all entries, and a second fold adds nothing', async () => {
  const { db } = database
  for (let call = 0; call < 3; call++) await buy(db)
  await foldAll()
  const { rows, facts } = await projected()
  expect(rows).toEqual(facts)
  expect(await countUnfolded()).toBe(0n)
  expect(await foldAll()).toBe(0)
  expect((await projected()).rows).toEqual(rows)
})

test('an entry with a low id that commits late is neither lost nor counted before it is there', async () => {
  const { db } = database
  await foldAll()
  await withTransaction(db, async (slow) => {
    // Its ids are given out here, and it commits after those that follow were looked at.
    expect(await reserve(slow, tenant)).toMatchObject({ ok: true })
    const other = await createBareTenant(db)
    expect(await reserve(db, other)).toMatchObject({ ok: true })
    expect(await foldSome()).toBe(0)
  })
  expect(await foldAll()).toBe(4)
  const { rows, facts } = await projected()
  expect(rows).toEqual(facts)
})

test('four sweeps fold small steps while jobs are accepted and charged: all is counted once', async () => {
  const { db } = database
  let isBusy = true
  const sweeps = Array.from({ length: 4 }, async () => {
    while (isBusy) await foldBalances(db, { limit: 3 })
  })
  await Promise.all(Array.from({ length: 60 }, () => buy(db)))
  isBusy = false
  await Promise.all(sweeps)
  await foldAll()
  const { rows, facts } = await projected()
  expect(rows).toEqual(facts)
  expect(await countUnfolded()).toBe(0n)
})

test('the trial balance counts what is not folded yet, and sums to zero', async () => {
  const { db } = database
  await buy(db)
  await foldAll()
  const before = await readTrialBalance(db)
  await buy(db)
  const accounts = await readTrialBalance(db)
  const cost = (list: typeof accounts) =>
    list.find(({ accountId }) => accountId === `team_cost:${tenant.teamId}`)
  expect([cost(before)?.postedMicros, cost(accounts)?.postedMicros]).toEqual([15_000n, 30_000n])
  expect(accounts.reduce((sum, { postedMicros }) => sum + postedMicros, 0n)).toBe(0n)
  expect(accounts.reduce((sum, { pendingMicros }) => sum + pendingMicros, 0n)).toBe(0n)
  expect(accounts[0]).toMatchObject({ orgId: null })
})

test('a database that came from another server goes on where it was', async () => {
  const { db } = database
  await buy(db)
  await foldAll()
  // The number belongs to a server that had given out many more.
  await db.sql`update ledger_watermark set xid = '900000000000' where projection = 'balances'`
  await buy(db)
  await foldAll()
  const { rows, facts } = await projected()
  expect(rows).toEqual(facts)
  expect(await countUnfolded()).toBe(0n)
})

test('it refuses to work in a transaction that has written, where its reckoning would not hold', async () => {
  const { db } = database
  const working = withTransaction(db, async (tx) => {
    await tx.sql`select pg_current_xact_id()`
    await tx.sql`select fold_balances(10)`
  })
  await expect(working).rejects.toThrow('a transaction of its own')
})
