import { readFile, writeFile } from 'node:fs/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { readStatement } from '../../billing/statement/close.ts'
import { toStatementCsv } from '../../billing/statement/csv.ts'
import type { StatementDocument } from '../../billing/statement/document.ts'
import { exportStatement } from '../../billing/statement/export.ts'
import { toStatementHtml } from '../../billing/statement/html.ts'
import { parseMonth } from '../../billing/statement/month.ts'
import { checkBooks } from '../support/books.ts'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { checkFocus, parseCsv, sumMicros } from '../support/focus-check.ts'
import { GOLDEN_ORGS, createGoldenWorld } from '../support/statement-golden.ts'
import { textOf } from '../support/statement-world.ts'

const FIXTURES = new URL('../fixtures/statements/', import.meta.url)
const OCTOBER = parseMonth('2026-10')!
const CLOSED_AT = new Date('2026-11-02T03:04:05Z')

let database: TestDatabase

beforeAll(async () => {
  database = await createTestDatabase()
  await createGoldenWorld(database.db)
})
afterAll(async () => {
  expect(await checkBooks(database.db)).toEqual([])
  await database.close()
})

/** Refreshed by `UPDATE_GOLDEN=1`, so that a change of any form shows in review. */
async function expectGolden(name: string, text: string): Promise<void> {
  const file = new URL(name, FIXTURES)
  if (process.env.UPDATE_GOLDEN) await writeFile(file, text)
  expect(text).toBe(await readFile(file, 'utf8'))
}

async function focusOf(orgId: string, version: '1.4' | '1.2' = '1.4'): Promise<string> {
  const scope = { orgId, teamId: null, month: OCTOBER }
  const made = await exportStatement(database.db, scope, { format: 'focus', focus: { version } })
  return await textOf(made!.body)
}

describe.each(Object.entries(GOLDEN_ORGS))('a fixed world, %s', (mode, orgId) => {
  test('JSON, CSV and HTML of the org are those of the fixtures', async () => {
    const file = await readStatement(database.db, { orgId, teamId: null, month: OCTOBER })
    const document = JSON.parse(file!.json) as StatementDocument
    await expectGolden(`${mode}.json`, file!.json)
    await expectGolden(`${mode}.csv`, toStatementCsv(document))
    await expectGolden(`${mode}.html`, toStatementHtml(document, { ...file!, closedAt: CLOSED_AT }))
  })

  test('FOCUS is that of the fixtures, conforms, and has the same rows for 1.2', async () => {
    const csv = await focusOf(orgId)
    await expectGolden(`${mode}-focus-1.4.csv`, csv)
    expect(checkFocus(csv, '1.4')).toEqual([])
    const older = await focusOf(orgId, '1.2')
    expect(checkFocus(older, '1.2')).toEqual([])
    expect(parseCsv(older).rows.map((row) => row.x_RecordId)).toEqual(
      parseCsv(csv).rows.map((row) => row.x_RecordId),
    )
  })
})

test("a team's page is that of the fixture", async () => {
  const scope = {
    orgId: GOLDEN_ORGS.internal,
    teamId: 'team_design_golden_internal',
    month: OCTOBER,
  }
  const file = await readStatement(database.db, scope)
  const page = toStatementHtml(JSON.parse(file!.json) as StatementDocument, file!)
  await expectGolden('internal-team.html', page)
})

test('the billed cost of an invoice, tax and rounding included, is what it asks for', async () => {
  const { rows } = parseCsv(await focusOf(GOLDEN_ORGS.postpaid))
  const invoiced = rows.filter((row) => row.InvoiceId === 'in_golden')
  expect(invoiced).toHaveLength(rows.length)
  expect(sumMicros(invoiced, 'BilledCost')).toBe(60_000n + 11_400n)
  expect(new Set(rows.map((row) => row.ChargeCategory))).toEqual(
    new Set(['Usage', 'Credit', 'Tax', 'Adjustment']),
  )
})

test('an invoice that differs by more than rounding is named on no row', async () => {
  const { db } = database
  await db.sql`update invoice set amount_micros = 80000 where id = 'in_golden'`
  const { rows } = parseCsv(await focusOf(GOLDEN_ORGS.postpaid))
  expect(rows.every((row) => row.InvoiceId === null && row.ChargeCategory !== 'Tax')).toBe(true)
  await db.sql`update invoice set amount_micros = 60000 where id = 'in_golden'`
})

test('a correction keeps the hour of its usage and is a Correction only of an earlier month', async () => {
  const { rows } = parseCsv(await focusOf(GOLDEN_ORGS.postpaid))
  const by = (reason: string) => rows.filter((row) => row.x_CorrectionReason === reason)
  expect(by('refund')).toMatchObject([
    {
      ChargeClass: 'Correction',
      ChargePeriodStart: '2026-09-30T23:00:00Z',
      BilledCost: '-0.015000',
    },
  ])
  for (const reason of ['moved_in', 'moved_out'])
    for (const row of by(reason))
      expect(row).toMatchObject({ ChargeClass: null, ChargePeriodStart: '2026-10-31T23:00:00Z' })
})

test('names cannot break out of a page, and cells that spreadsheets would run are texts', async () => {
  const file = await readStatement(database.db, {
    orgId: GOLDEN_ORGS.prepaid,
    teamId: null,
    month: OCTOBER,
  })
  const document = JSON.parse(file!.json) as StatementDocument
  const page = toStatementHtml(document, file!)
  expect(page).not.toContain('<Print>')
  expect(page).toContain('Müller &amp; Söhne &lt;Print&gt;')
  expect(page).not.toMatch(/https?:|<script|<link|@import|url\(/)
  const { rows } = parseCsv(toStatementCsv(document))
  const teams = rows.filter((row) => row.section === 'team').map((row) => row.team)
  expect(teams).toEqual(['Design', "'=Spring"])
})
