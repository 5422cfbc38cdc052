import fc from 'fast-check'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { moveKey } from '../../billing/move-key.ts'
import { fromUsd } from '../../billing/statement/amounts.ts'
import type { Amounts } from '../../billing/statement/amounts.ts'
import { closeStatement, readStatement } from '../../billing/statement/close.ts'
import type { Part, StatementDocument } from '../../billing/statement/document.ts'
import { exportStatement } from '../../billing/statement/export.ts'
import { parseMonth } from '../../billing/statement/month.ts'
import type { StatementScope } from '../../billing/statement/rows.ts'
import { grantCredit } from '../../billing/credit.ts'
import type { Db } from '../../db/client.ts'
import { createId } from '../../db/ids.ts'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { checkFocus, parseCsv, sumMicros } from '../support/focus-check.ts'
import { createBareKey, createBareTenant } from '../support/jobs.ts'
import type { BareTenant } from '../support/jobs.ts'
import { checkBooks } from '../support/books.ts'
import {
  buyAt,
  dateGrant,
  dateMove,
  giveAt,
  holdAt,
  refundAt,
  rewrite,
  textOf,
} from '../support/statement-world.ts'

let database: TestDatabase

beforeAll(async () => {
  database = await createTestDatabase()
})
afterAll(() => database.close())

const MONTHS = ['2026-07', '2026-08', '2026-09'].map((text) => parseMonth(text)!)
const START = MONTHS[0]!.start.getTime()
const LENGTH = MONTHS[2]!.end.getTime() - START

/** Instants in the three months; the edges of months more often than chance would have it. */
const instant = fc.oneof(
  fc.nat(LENGTH - 1).map((ms) => new Date(START + ms)),
  fc.constantFrom(...MONTHS.flatMap(({ start, end }) => [start, new Date(end.getTime() - 1)])),
)

const purchase = fc.record({
  key: fc.nat(2),
  n: fc.integer({ min: 1, max: 4 }),
  missing: fc.nat(4),
  at: instant,
  /** List price above what is paid. */
  discount: fc.constantFrom(0n, 0n, 5_000n, 1n),
  credit: fc.constantFrom(0n, 0n, 15_000n, 4_000n),
})
const event = fc.oneof(
  { weight: 5, arbitrary: fc.record({ kind: fc.constant('buy' as const), purchase }) },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constant('hold' as const), key: fc.nat(2), at: instant }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constant('refund' as const), line: fc.nat(), at: instant }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant('move' as const),
      key: fc.nat(2),
      team: fc.nat(1),
      from: instant,
      at: instant,
    }),
  },
)
const world = fc.record({
  mode: fc.constantFrom('prepaid' as const, 'postpaid' as const, 'internal' as const),
  events: fc.array(event, { minLength: 1, maxLength: 10 }),
})

type Event = typeof event extends fc.Arbitrary<infer T> ? T : never

test('statement, its parts, its teams, FOCUS and the ledger say the same of every month', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(world, { minLength: 1, maxLength: 3 }), async (worlds) => {
      for (const { mode, events } of worlds) {
        const { db } = database
        const keys = await createWorld(db, mode)
        for (const happening of events) await happen(db, { mode, keys }, happening)
        await checkOrg(db, keys[0]!.orgId)
      }
    }),
    { numRuns: 12, endOnFailure: true },
  )
  expect(await checkBooks(database.db)).toEqual([])
}, 300_000)

async function createWorld(
  db: Db,
  mode: 'prepaid' | 'postpaid' | 'internal',
): Promise<BareTenant[]> {
  const first = await createBareTenant(db, { settlementMode: mode })
  const { orgId, teamId } = first
  const second = { orgId, ...(await createBareKey(db, orgId, { teamId })) }
  const third = { orgId, ...(await createBareKey(db, orgId)) }
  if (mode === 'prepaid') {
    await grantCredit(db, { orgId, amountMicros: 9_000_000n, sourceId: `paid:${orgId}` })
    await dateGrant(db, { sourceId: `paid:${orgId}`, at: MONTHS[1]!.start })
  }
  await db.sql`update api_key set tags = '{"project": "spring, \\"sale\\"", "level": 3}' where id = ${third.keyId}`
  return [first, second, third]
}

async function happen(
  db: Db,
  { mode, keys }: { mode: string; keys: BareTenant[] },
  happening: Event,
): Promise<void> {
  const { orgId } = keys[0]!
  /** With the team that the key belongs to by now. */
  const tenantOf = async (index: number): Promise<BareTenant> => {
    const { keyId } = keys[index]!
    const [row] = await db.sql<{ teamId: string }[]>`
      select team_id as "teamId" from api_key where id = ${keyId}`
    return { orgId, keyId, teamId: row!.teamId }
  }
  switch (happening.kind) {
    case 'buy': {
      const { key, n, missing, at, discount, credit } = happening.purchase
      const order = { n, delivered: Math.max(0, n - missing), at }
      if (credit > 0n && mode !== 'internal')
        await giveAt(db, { orgId, amountMicros: credit, sourceId: createId('topup'), at })
      const jobId = await buyAt(db, await tenantOf(key), order)
      await rewrite(
        db,
        ({ sql }) => sql`
        update usage_event set list_micros = net_micros + ${discount}::bigint, discount_micros = ${discount}::bigint
         where job_id = ${jobId}`,
      )
      return
    }
    case 'hold':
      await holdAt(db, await tenantOf(happening.key), { n: 1, at: happening.at })
      return
    case 'refund': {
      const lines = await db.sql<{ id: string; at: Date }[]>`
        select id, occurred_at as at from usage_event u where org_id = ${orgId}
           and not exists (select 1 from usage_correction c where c.usage_event_id = u.id and reason = 'refund')
         order by id`
      const line = lines[happening.line % Math.max(1, lines.length)]
      if (!line) return
      // What was not yet charged cannot be given back.
      const at = new Date(Math.max(happening.at.getTime(), line.at.getTime()))
      await refundAt(db, { usageId: line.id, at })
      return
    }
    case 'move': {
      const teamId = [keys[0]!, keys[2]!][happening.team]!.teamId
      const { keyId } = keys[happening.key]!
      const result = await moveKey(db, { keyId, teamId, validFrom: happening.from })
      expect(result).toMatchObject({ ok: true, isComplete: true })
      const again = await moveKey(db, { keyId, teamId, validFrom: happening.from })
      expect(again).toMatchObject({ ok: true, movedLines: 0, movedMicros: 0n })
    }
  }
}

async function checkOrg(db: Db, orgId: string): Promise<void> {
  const teams = await db.sql<{ id: string }[]>`select id from team where org_id = ${orgId}`
  // Moves are written today; here they are dated into the last of the months, after all else.
  const moves = await db.sql<{ id: string }[]>`
    select distinct source_id as id from usage_correction where org_id = ${orgId} and reason = 'moved_in'`
  for (const { id } of moves) await dateMove(db, id, new Date(MONTHS[2]!.end.getTime() - 1))
  let closing = '0.000000'
  for (const month of MONTHS) {
    const scope = { orgId, teamId: null, month }
    const document = await documentOf(db, scope)
    checkParts(document)
    await checkLedger(db, document, month.start, month.end)
    await checkExport(db, scope, document)
    if (document.account) expect(document.account.opening).toBe(closing)
    closing = document.account?.closing ?? closing
    const parts: StatementDocument[] = []
    for (const { id } of teams) {
      const team = await documentOf(db, { ...scope, teamId: id })
      checkParts(team)
      await checkExport(db, { ...scope, teamId: id }, team)
      parts.push(team)
    }
    for (const side of ['usage', 'corrections', 'total', 'earlier_periods'] as const)
      expect(sumAmounts(parts.map((part) => part[side]))).toEqual(toNumbers(document[side]))
    expect(parts.reduce((sum, part) => sum + part.open_holds.count, 0)).toBe(
      document.open_holds.count,
    )
    await checkClosing(db, scope)
  }
}

async function documentOf(db: Db, scope: StatementScope): Promise<StatementDocument> {
  const file = await readStatement(db, scope)
  return JSON.parse(file!.json) as StatementDocument
}

/** Every breakdown adds up to the whole. */
function checkParts(document: StatementDocument): void {
  for (const part of ['by_team', 'by_key', 'by_sku', 'by_day'] as const) {
    const rows: Part[] = document[part]
    for (const side of ['usage', 'corrections', 'total'] as const)
      expect(sumAmounts(rows.map((row) => row[side]))).toEqual(toNumbers(document[side]))
  }
  expect(sumAmounts([document.usage, document.corrections])).toEqual(toNumbers(document.total))
  expect(sumAmounts(document.correction_groups)).toEqual(toNumbers(document.corrections))
}

/** Posted income less refunds, and the change of the org's accounts by both: of all, and beside given credit. */
async function checkLedger(
  db: Db,
  document: StatementDocument,
  start: Date,
  end: Date,
): Promise<void> {
  const [row] = await db.sql<{ funding: bigint; due: bigint; income: bigint }[]>`
    select coalesce(sum(e.amount_micros) filter (where a.org_id is not null), 0)::bigint as funding,
           coalesce(sum(e.amount_micros) filter (where a.type in ('prepaid', 'receivable', 'team_cost')), 0)::bigint as due,
           coalesce(-sum(e.amount_micros) filter (where a.type in ('revenue', 'recovery', 'refunds')), 0)::bigint as income
      from ledger_entry e
      join ledger_account a on a.id = e.account_id
      join ledger_txn t on t.id = e.txn_id
     where t.id in (select o.txn_id from ledger_entry o join ledger_account oa on oa.id = o.account_id
                     where oa.org_id = ${document.org.id}) and e.phase = 'posted'
       and t.kind in ('charge', 'refund') and t.occurred_at >= ${start} and t.occurred_at < ${end}`
  expect(row!.income).toBe(fromUsd(document.total.net))
  expect(row!.funding).toBe(fromUsd(document.total.net))
  expect(row!.due).toBe(fromUsd(document.total.due))
}

async function checkExport(
  db: Db,
  scope: StatementScope,
  document: StatementDocument,
): Promise<void> {
  for (const version of ['1.4', '1.2'] as const) {
    const made = await exportStatement(db, scope, { format: 'focus', focus: { version } })
    const csv = await textOf(made!.body)
    expect(checkFocus(csv, version)).toEqual([])
    const { rows } = parseCsv(csv)
    const of = (...categories: string[]) =>
      rows.filter((row) => categories.includes(row.ChargeCategory ?? ''))
    const { total, usage, earlier_periods: earlier } = document
    expect(sumMicros(rows, 'EffectiveCost')).toBe(fromUsd(total.due))
    expect(sumMicros(of('Usage'), 'ListCost')).toBe(fromUsd(total.list))
    expect(sumMicros(of('Usage'), 'ContractedCost')).toBe(fromUsd(total.net))
    expect(sumMicros(of('Credit'), 'EffectiveCost')).toBe(-fromUsd(total.credit))
    expect(sumMicros(of('Usage'), 'ConsumedQuantity')).toBe(BigInt(total.images) * 1_000_000n)
    expect(of('Usage').filter((row) => row.x_CorrectionReason === null)).toHaveLength(usage.images)
    const corrections = rows.filter((row) => row.ChargeClass === 'Correction')
    expect(sumMicros(corrections, 'EffectiveCost')).toBe(fromUsd(earlier.due))
    const paid = scope.teamId === null && scope.month === MONTHS[1] ? 9_000_000n : 0n
    const billed = { postpaid: fromUsd(total.due), prepaid: paid, internal: 0n }
    const mode = document.org.settlement_mode as keyof typeof billed
    expect(sumMicros(rows, 'BilledCost')).toBe(billed[mode])
  }
}

/** Closing keeps exactly what was shown, and a second closing changes nothing. */
async function checkClosing(db: Db, scope: StatementScope): Promise<void> {
  const before = await readStatement(db, scope)
  const closed = await closeStatement(db, scope)
  expect(closed).toMatchObject({ ok: true, repeated: false })
  const after = await readStatement(db, scope)
  expect(after!.json).toBe(before!.json)
  expect(after!.sha256).toBe(before!.sha256)
  expect(await closeStatement(db, scope)).toMatchObject({ ok: true, repeated: true, file: after })
}

function toNumbers({ images, list, discount, net, credit, due }: Amounts) {
  return [BigInt(images), ...[list, discount, net, credit, due].map(fromUsd)]
}

function sumAmounts(all: Amounts[]): bigint[] {
  const total = [0n, 0n, 0n, 0n, 0n, 0n]
  for (const amounts of all) toNumbers(amounts).forEach((value, index) => (total[index]! += value))
  return total
}
