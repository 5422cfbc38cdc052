import { execFile } from 'node:child_process'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { foldBalances } from '../../billing/balances.ts'
import { grantCredit } from '../../billing/credit.ts'
import { readLedger } from '../../billing/ledger-chain.ts'
import { compareBooks, rebuildBalances } from '../../billing/reconcile/books.ts'
import { toLine } from '../../billing/reconcile/difference.ts'
import type { Difference } from '../../billing/reconcile/difference.ts'
import { refundImages } from '../../billing/refund.ts'
import { settleJob } from '../../billing/settle.ts'
import { closeStatement } from '../../billing/statement/close.ts'
import { parseMonth } from '../../billing/statement/month.ts'
import { closeDatabase } from '../../db/client.ts'
import type { Db } from '../../db/client.ts'
import { claimJob } from '../../db/job-claims.ts'
import { setBudget } from '../../db/orgs.ts'
import { insertEndpoint } from '../../db/webhooks.ts'
import { checkBooks } from '../support/books.ts'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { IMAGE_MICROS, createBareTenant, deliver, reserve } from '../support/jobs.ts'
import type { BareTenant } from '../support/jobs.ts'
import { buyAt, refundAt, rewrite } from '../support/statement-world.ts'
import { until } from '../support/worker.ts'
import { onCopy } from '../support/world-copy.ts'

const GRACE = { graceSeconds: 900 }
const OCTOBER = { at: new Date('2026-10-14T12:00:00Z'), month: '2026-10' }

async function buy(db: Db, tenant: BareTenant, n = 2): Promise<string | null> {
  const result = await reserve(db, tenant, { n })
  if (!result.ok) return null
  const { jobId } = result
  await claimJob(db, { jobId, workerId: 'w', leaseSeconds: 60, maxFailedAttempts: 3 })
  for (let idx = 0; idx < n; idx++) await deliver(db, jobId, 1, idx)
  await settleJob(db, { jobId, attempt: 1, outcome: 'succeeded' })
  return jobId
}

/** A bit of everything that the books can hold; nobody is connected to it, so that it can be copied. */
interface World {
  database: TestDatabase
  postpaid: BareTenant
  prepaid: BareTenant
  jobId: string
  heldJobId: string
  statementId: string
}
let world: World

beforeAll(async () => {
  const database = await createTestDatabase()
  const { db } = database
  const postpaid = await createBareTenant(db, { team: { monthLimitMicros: 10n ** 9n } })
  const prepaid = await createBareTenant(db, {
    settlementMode: 'prepaid',
    org: { creditMicros: 100n * IMAGE_MICROS },
  })
  const internal = await createBareTenant(db, { settlementMode: 'internal' })
  const { orgId } = prepaid
  await grantCredit(db, { orgId, amountMicros: 500_000n, sourceId: 'gift', kind: 'promo' })
  const october = await createBareTenant(db)
  await buyAt(db, october, { n: 3, delivered: 3, at: OCTOBER.at })
  const [line] = await db.sql<{ id: string }[]>`select id from usage_event limit 1`
  await refundAt(db, { usageId: line?.id ?? '', at: OCTOBER.at })
  const month = parseMonth(OCTOBER.month)
  if (!month) throw new Error('no month')
  const scope = { orgId: october.orgId, teamId: null, month }
  expect(await closeStatement(db, scope)).toMatchObject({ ok: true })
  await insertEndpoint(db, {
    orgId: postpaid.orgId,
    url: 'https://a.example/',
    description: null,
    eventTypes: [],
  })
  const jobs = []
  for (const tenant of [postpaid, prepaid, internal]) jobs.push(await buy(db, tenant))
  const [jobId = null] = jobs
  if (jobId === null) throw new Error('no job')
  for (const idx of [0, 0, 1]) {
    const refund = { orgId: internal.orgId, jobId: jobs[2] ?? '', indexes: [idx] }
    await refundImages(db, { ...refund, refundId: 'one by one' })
  }
  await refundImages(db, { orgId: postpaid.orgId, jobId, indexes: [0], refundId: 'late' })
  const held = await reserve(db, postpaid, { n: 3 })
  if (!held.ok) throw new Error(held.reason)
  // Transactions of other databases of the server hold both up.
  const isComplete = async () => {
    await readLedger(db, postpaid.orgId, { after: 0n, limit: 1 })
    await foldBalances(db, { limit: 1_000 })
    const [row] = await db.sql<{ lines: bigint; left: bigint }[]>`
      select (select count(*) from ledger_line) as lines, (select count(*) from ledger_entry
               where id > (select folded_to from ledger_watermark where projection = 'balances')) as left`
    return row?.lines === 5n && row.left === 0n
  }
  await until(isComplete, () => 'chain and balances to be complete')
  const [statement] = await db.sql<{ id: string }[]>`select id from statement`
  expect(await checkBooks(db)).toEqual([])
  await closeDatabase(db)
  world = {
    database,
    postpaid,
    prepaid,
    jobId,
    heldJobId: held.jobId,
    statementId: statement?.id ?? '',
  }
})
afterAll(() => world.database.close())

interface Planted {
  name: string
  /** With triggers and foreign keys switched off. */
  sql: (world: World) => string
  /** All that is told of it. */
  found: (world: World) => Record<string, unknown>[]
}

const UNIT = IMAGE_MICROS
const suffix = (id: string) => id.slice(4)

const PLANTED: Planted[] = [
  {
    name: 'an entry with another amount',
    sql: ({ jobId }) => `update ledger_entry set amount_micros = amount_micros + 1
       where txn_id = 'led_charge_${suffix(jobId)}' and account_id = 'revenue'`,
    found: ({ jobId }) => [
      {
        check: 'transaction_sum',
        ids: { transaction: `led_charge_${suffix(jobId)}`, phase: 'posted' },
        expected: '0',
        found: '1',
      },
      { check: 'balance', ids: { account: 'revenue', phase: 'posted' } },
      {
        check: 'charge',
        ids: { job: jobId },
        expected: `${2n * UNIT}`,
        found: `${2n * UNIT - 1n}`,
      },
    ],
  },
  {
    name: 'a transaction that lost its entries',
    sql: ({ heldJobId }) => `
      delete from ledger_line where entry_id in (select id from ledger_entry where txn_id = 'led_hold_${suffix(heldJobId)}');
      delete from ledger_entry where txn_id = 'led_hold_${suffix(heldJobId)}'`,
    found: ({ heldJobId, postpaid }) => [
      { check: 'transaction_empty', ids: { transaction: `led_hold_${suffix(heldJobId)}` } },
      { check: 'balance', ids: { account: `receivable:${postpaid.orgId}`, phase: 'pending' } },
      { check: 'balance', ids: { account: 'revenue', phase: 'pending' } },
      { check: 'hold', ids: { job: heldJobId }, expected: `${3n * UNIT}`, found: '0' },
    ],
  },
  {
    name: 'a folded balance',
    sql: () =>
      `update ledger_balance set posted_micros = posted_micros + 7 where account_id = 'refunds'`,
    found: () => [
      {
        check: 'balance',
        ids: { account: 'refunds', phase: 'posted' },
        expected: `${4n * UNIT}`,
        found: `${4n * UNIT + 7n}`,
      },
    ],
  },
  {
    name: 'a usage line that was taken out',
    sql: ({ jobId }) => `delete from usage_event where job_id = '${jobId}' and idx = 1`,
    found: ({ jobId }) => [
      { check: 'charge', ids: { job: jobId }, expected: `${UNIT}`, found: `${2n * UNIT}` },
      { check: 'capture', ids: { job: jobId }, expected: `${UNIT}`, found: `${2n * UNIT}` },
      {
        check: 'picture',
        ids: { job: jobId, index: 1 },
        expected: 'charged',
        found: 'no usage line',
      },
    ],
  },
  {
    name: 'a charged picture that should have been free',
    sql: ({ jobId }) => `
      update job_output set unbilled_reason = 'text_mismatch' where job_id = '${jobId}' and idx = 1`,
    found: ({ jobId }) => [
      {
        check: 'picture',
        ids: { job: jobId, index: 1 },
        expected: 'text_mismatch',
        found: 'charged',
      },
    ],
  },
  {
    name: 'income that no job has brought',
    sql: () => `
      insert into ledger_txn (id, kind, source_id) values ('led_odd', 'odd', 'odd');
      insert into ledger_entry (txn_id, account_id, amount_micros, phase)
      values ('led_odd', 'clearing', 5, 'posted'), ('led_odd', 'revenue', -5, 'posted')`,
    found: () => [
      {
        check: 'income_otherwise',
        ids: { transaction: 'led_odd', account: 'revenue' },
        found: '-5',
      },
    ],
  },
  {
    name: 'a refund without its correction',
    sql: () => `delete from usage_correction where source_id = 'late'`,
    found: ({ jobId, postpaid }) => [
      { check: 'refund', ids: { refund: `late:${jobId}` }, expected: '0', found: `${UNIT}` },
      ...['key', 'month', 'org', 'team'].map((row) => ({
        check: 'budget',
        ids: {
          kind: row === 'month' ? 'month' : 'balance',
          field: 'spent',
          ...(row === 'key' ? { key: postpaid.keyId } : {}),
          ...(row === 'org' ? { org: postpaid.orgId } : {}),
          ...(row === 'month' || row === 'team' ? { team: postpaid.teamId } : {}),
        },
        expected: `${2n * UNIT}`,
        found: `${UNIT}`,
      })),
    ],
  },
  {
    name: 'a line of a chain that says something else',
    sql: ({ postpaid }) => `
      update ledger_line set hash = repeat('e', 64) where org_id = '${postpaid.orgId}' and seq = 2`,
    found: ({ postpaid }) => [
      { check: 'chain_hash', ids: { org: postpaid.orgId, line: '2' }, found: 'e'.repeat(64) },
      { check: 'chain_hash', ids: { org: postpaid.orgId, line: '3' } },
    ],
  },
  {
    name: 'the content under a line of a chain',
    sql: ({ jobId, postpaid }) => `
      update ledger_txn set occurred_at = occurred_at - interval '1 day' where id = 'led_charge_${suffix(jobId)}';
      select '${postpaid.orgId}'`,
    found: ({ postpaid }) => [{ check: 'chain_hash', ids: { org: postpaid.orgId } }],
  },
  {
    name: 'a line that a chain lost',
    sql: ({ postpaid }) => `delete from ledger_line where org_id = '${postpaid.orgId}' and seq = 1`,
    found: ({ postpaid }) => [
      { check: 'chain_hash', ids: { org: postpaid.orgId, line: '2' } },
      { check: 'chain_lines', ids: { org: postpaid.orgId } },
      { check: 'chain_entry', ids: { org: postpaid.orgId } },
    ],
  },
  {
    name: 'held, spent and in flight of a budget row',
    sql: ({ postpaid }) => `
      update budget set held_micros = held_micros + 1, spent_micros = spent_micros + 2, inflight = inflight + 1
       where scope_id = '${postpaid.keyId}' and kind = 'balance'`,
    found: ({ postpaid: { keyId } }) => [
      {
        check: 'budget',
        ids: { key: keyId, field: 'held' },
        expected: `${3n * UNIT}`,
        found: `${3n * UNIT + 1n}`,
      },
      { check: 'budget', ids: { key: keyId, field: 'inflight' }, expected: '1', found: '2' },
      {
        check: 'budget',
        ids: { key: keyId, field: 'spent' },
        expected: `${UNIT}`,
        found: `${UNIT + 2n}`,
      },
    ],
  },
  {
    name: 'what is left of a grant',
    sql: () =>
      `update credit_grant set remaining_micros = remaining_micros - 9 where source_id = 'gift'`,
    found: ({ prepaid: { orgId } }) => [
      { check: 'credit_account', ids: { org: orgId, credit: 'promo' } },
      { check: 'credit_limit', ids: { org: orgId } },
    ],
  },
  {
    name: 'a hold whose job has ended',
    sql: ({ heldJobId }) =>
      `update job set finished_at = now(), state = 'failed' where id = '${heldJobId}'`,
    found: ({ heldJobId }) => [
      { check: 'hold_of_job', ids: { job: heldJobId }, expected: 'settled', found: 'held' },
    ],
  },
  {
    name: 'the bytes of a closed statement',
    sql: () => `update statement set document = replace(document, '0.045000', '0.030000')`,
    found: ({ statementId }) => [{ check: 'statement_sha256', ids: { statement: statementId } }],
  },
  {
    name: 'a line of a month that is closed',
    sql: () => `
      update usage_event set occurred_at = '2026-11-01' where idx = 2`,
    found: ({ statementId }) => [
      {
        check: 'statement_lines',
        ids: { statement: statementId, part: 'usage' },
        expected: `${2n * UNIT}`,
        found: `${3n * UNIT}`,
      },
    ],
  },
  {
    name: 'a message that nobody sent',
    sql: ({ heldJobId }) => `
      update outbox set available_at = now() - interval '16 minutes' where dedupe_key = '${heldJobId}:0'`,
    found: ({ heldJobId }) => [
      { check: 'message_unsent', ids: { about: `${heldJobId}:0` }, found: 'unsent' },
    ],
  },
  {
    name: 'a hold past its deadline',
    sql: ({ heldJobId }) => `
      update reservation set expires_at = now() - interval '16 minutes' where job_id = '${heldJobId}'`,
    found: ({ heldJobId }) => [{ check: 'hold_overdue', ids: { job: heldJobId }, found: 'held' }],
  },
  {
    name: 'a webhook that nobody attempts',
    sql: () => `update webhook_delivery set next_attempt_at = now() - interval '16 minutes'`,
    found: ({ postpaid: { orgId } }) => [{ check: 'webhook_stuck', ids: { org: orgId } }],
  },
  {
    name: 'news of Stripe that were not applied, and a report that was refused',
    sql: ({ postpaid: { orgId } }) => `
      insert into stripe_event (id, type, payload, received_at, error)
      values ('evt_old', 'invoice.paid', '{}', now() - interval '16 minutes', 'no such org');
      insert into meter_report (id, org_id, meter, hour, revision, channel, quantity, due_micros, base_quantity,
                                base_micros, identifier, state, sealed_at)
      values ('mtr_old', '${orgId}', 'images', now(), 1, 'meter', 1, 1, 0, 0, 'ev:old', 'failed',
              now() - interval '16 minutes')`,
    found: ({ postpaid: { orgId } }) => [
      { check: 'stripe_event_stuck', ids: { event: 'evt_old' }, found: 'failed: no such org' },
      { check: 'stripe_report_stuck', ids: { org: orgId, report: 'mtr_old' }, found: 'failed' },
    ],
  },
  {
    name: 'a top-up that was paid and not credited, and an invoice that was paid and not posted',
    sql: ({ prepaid: { orgId } }) => `
      insert into topup (id, org_id, amount_micros, kind, state, payment_intent)
      values ('top_1', '${orgId}', 70000, 'checkout', 'paid', 'pi_1');
      insert into invoice (id, org_id, period_start, period_end, state, amount_micros, lines_micros)
      values ('in_1', '${orgId}', now(), now(), 'paid', 80000, 80000)`,
    found: () => [
      { check: 'credit_of_topup', ids: { topup: 'top_1' }, expected: '70000', found: '0' },
      { check: 'invoice_payment', ids: { invoice: 'in_1' }, expected: '80000', found: '0' },
    ],
  },
]

describe('what was planted is found, with its ids and both amounts, and nothing else is', () => {
  test('nothing planted: nothing found', async () => {
    await onCopy(world.database.url, async (db) => {
      expect(await compareBooks(db, GRACE)).toMatchObject({ differences: [], unlisted: {} })
    })
  })

  test.each(PLANTED)('$name', async ({ sql, found }) => {
    await onCopy(world.database.url, async (db) => {
      await rewrite(db, (tx) => tx.sql.unsafe(sql(world)))
      const { differences } = await compareBooks(db, GRACE)
      const expected = found(world).map(({ ids, ...rest }) =>
        expect.objectContaining({ ...rest, ids: expect.objectContaining(ids) }),
      )
      expect(differences).toHaveLength(expected.length)
      for (const one of expected) expect(differences).toContainEqual(one)
    })
  })

  test('every comparison is among those that something was planted for', async () => {
    const named = new Set(PLANTED.flatMap(({ found }) => found(world).map(({ check }) => check)))
    await onCopy(world.database.url, async (db) => {
      const { checks } = await compareBooks(db, GRACE)
      expect(checks.filter((name) => !named.has(name))).toEqual([])
    })
  })
})

test('of very many differences of one kind the first are listed and the others counted', async () => {
  await onCopy(world.database.url, async (db) => {
    await rewrite(
      db,
      ({ sql }) => sql`
      insert into ledger_txn (id, kind, source_id) select 'led_none_' || n, 'none', n from generate_series(1, 250) n`,
    )
    const report = await compareBooks(db, GRACE)
    expect(report.differences).toHaveLength(100)
    expect(report.unlisted).toEqual({ transaction_empty: 150 })
  })
})

test('a rebuild makes balances anew, at the entries that they stood at, and says what was wrong', async () => {
  await onCopy(world.database.url, async (db) => {
    const read = () => db.sql`select * from ledger_balance order by account_id`
    const before = await read()
    await db.sql`update ledger_balance set pending_micros = 1 where account_id = 'refunds'`
    await db.sql`delete from ledger_balance where account_id = 'revenue'`
    const wrong: Difference[] = []
    await rebuildBalances(db, (difference) => wrong.push(difference))
    expect(wrong).toContainEqual({
      check: 'balance',
      ids: { account: 'refunds', phase: 'pending' },
      expected: '0',
      found: '1',
    })
    expect([...(await read())]).toEqual([...before])
    await rebuildBalances(db, refuseDifference)
    expect(await compareBooks(db, GRACE)).toMatchObject({ differences: [] })
  })
})

test('a system under load gives no false alarm, and a rebuild in its midst loses nothing', async () => {
  const live = await createTestDatabase({ maxConnections: 24 })
  try {
    const { db } = live
    const tenants = [
      await createBareTenant(db, { key: { dayLimitMicros: 10n ** 9n, softBp: [1, 50] } }),
      await createBareTenant(db, { settlementMode: 'prepaid', org: { creditMicros: 10n ** 7n } }),
      await createBareTenant(db, { settlementMode: 'internal' }),
    ]
    let isBusy = true
    const work = Array.from({ length: 8 }, async (_, index) => {
      const tenant = tenants[index % tenants.length]
      for (let round = 0; isBusy && tenant; round++) {
        const jobId = await buy(db, tenant)
        if (jobId === null) continue
        const { orgId, teamId: scopeId } = tenant
        if (round % 3 === 0)
          await refundImages(db, { orgId, jobId, indexes: [0], refundId: createRefundId(jobId) })
        if (round % 4 === 0)
          await setBudget(db, {
            scope: 'team',
            scopeId,
            monthLimitMicros: BigInt(round) * 10n ** 6n,
          })
        if (round % 5 === 0) await readLedger(db, orgId, { after: 0n, limit: 1 })
      }
    })
    const folding = (async () => {
      while (isBusy) await foldBalances(db, { limit: 20 })
    })()
    for (let round = 0; round < 12; round++) {
      expect(await compareBooks(db, GRACE)).toMatchObject({ differences: [], unlisted: {} })
      if (round % 4 === 3) await rebuildBalances(db, refuseDifference)
    }
    isBusy = false
    await Promise.all([...work, folding])
    expect(await compareBooks(db, GRACE)).toMatchObject({ differences: [] })
    expect(await checkBooks(db)).toEqual([])
  } finally {
    await live.close()
  }
})

function refuseDifference(difference: Difference): never {
  throw new Error(toLine(difference))
}

function createRefundId(jobId: string): string {
  return `refund-${jobId}`
}

describe('the command', () => {
  const FLAGS = ['--disable-warning=ExperimentalWarning', '--experimental-strip-types']

  async function run(url: string | null, ...args: string[]) {
    const { DATABASE_URL: _own, STRIPE_SECRET_KEY: _key, ...env } = process.env
    return await new Promise<{ code: number; out: string; err: string }>((resolve) => {
      execFile(
        process.execPath,
        [...FLAGS, 'billing/reconcile-cli.ts', ...args],
        { env: url === null ? env : { ...env, DATABASE_URL: url } },
        (error, out, err) => resolve({ code: error ? Number(error.code) : 0, out, err }),
      )
    })
  }

  test('exits 0 without, 1 with differences, a line for each, and mends balances on request', async () => {
    await onCopy(world.database.url, async (db, url) => {
      expect(await run(url)).toMatchObject({
        code: 0,
        out: expect.stringMatching(
          /^No differences in \d+ comparisons of the books; Stripe was not asked\.\n$/,
        ),
      })
      await db.sql`update ledger_balance set posted_micros = 5 where account_id = 'refunds'`
      const line = `balance account=refunds phase=posted expected=${4n * UNIT} found=5`
      expect(await run(url)).toMatchObject({ code: 1, out: `${line}\n` })
      const json = await run(url, '--json')
      expect([json.code, JSON.parse(json.out)]).toEqual([
        1,
        expect.objectContaining({
          differences: [
            {
              check: 'balance',
              ids: { account: 'refunds', phase: 'posted' },
              expected: `${4n * UNIT}`,
              found: '5',
            },
          ],
          unlisted: {},
          rebuilt: null,
          isStripeCompared: false,
        }),
      ])
      const mended = await run(url, '--rebuild')
      expect(mended.code).toBe(0)
      expect(mended.out).toContain(`rebuilt ${line}\nNo differences`)
      const balances = await run(url, '--balances')
      expect(balances.out).toContain('refunds posted=0.060000 pending=0.000000\n')
      expect(balances.code).toBe(0)
    })
  })

  test('exits 2 when it compared nothing: bad options, no address, no database', async () => {
    const closed = 'postgres://a:b@127.0.0.1:1/x'
    for (const [url, ...args] of [
      [closed, '--nonsense'],
      [closed, '--grace-minutes', 'ten'],
      [null],
      [closed],
    ] as const) {
      const { code, out, err } = await run(url, ...args)
      expect([code, out]).toEqual([2, ''])
      expect(err).not.toBe('')
    }
    expect(await run(null, '--help')).toMatchObject({ code: 0 })
  })
})
