import type { Db } from '../../db/client.ts'
import { fromUsd } from './amounts.ts'
import { csvCell } from './csv.ts'
import type { StatementDocument } from './document.ts'
import { focusColumns } from './focus-columns.ts'
import type { FocusRow, FocusVersion } from './focus-columns.ts'
import { createFocusRows } from './focus-rows.ts'
import type { FocusInvoice, FocusPayment } from './focus-payments.ts'
import type { FocusLine } from './focus-rows.ts'
import { inScope } from './rows.ts'
import type { StatementScope } from './rows.ts'

export interface FocusOptions {
  readonly version: FocusVersion
  /** Who sells, hosts and invoices the service. */
  readonly provider?: string
}

/** A page is in memory at a time: about 5 MB of rows and text. */
const PAGE_ROWS = 2_000
const PROVIDER = 'Glyphpress'

/**
 * A month as a FOCUS Cost and Usage dataset in CSV, in pieces: a row per charged image, correction, credit, payment and
 * tax. Names and tags are those of the statement's document, so the rows of a closed month stay as they are; what can
 * still come to them is the invoice on which they stand, with its tax and rounding.
 */
export async function* createFocusCsv(
  db: Db,
  scope: StatementScope,
  document: StatementDocument,
  { version, provider = PROVIDER }: FocusOptions,
): AsyncGenerator<string> {
  const columns = focusColumns(version)
  const toText = (rows: FocusRow[]) =>
    rows.map((row) => `${columns.map((name) => csvCell(row[name] ?? '')).join(',')}\r\n`).join('')
  const invoice = await findInvoice(db, scope, document)
  const rows = createFocusRows({ document, invoice, provider })
  yield `${columns.join(',')}\r\n`
  if (scope.teamId === null) {
    for await (const page of pagesOf((after) => readPayments(db, scope, after)))
      yield toText(page.flatMap(rows.payment))
  }
  for await (const page of pagesOf((after) => readUsage(db, scope, after)))
    yield toText(page.flatMap(rows.line))
  for await (const page of pagesOf((after) => readCorrections(db, scope, after)))
    yield toText(page.flatMap(rows.line))
  if (scope.teamId === null) yield toText(rows.invoice())
}

interface Cursor {
  /** The database's own text of the instant: it has microseconds, and a `Date` has not. */
  readonly cursor: string
  readonly id: string
}

/** Pages in order of time; what is added behind the last one meanwhile is left for the next export. */
async function* pagesOf<T extends Cursor>(
  read: (after: Cursor) => Promise<T[]>,
): AsyncGenerator<T[]> {
  let after: Cursor = { cursor: '-infinity', id: '' }
  for (;;) {
    const page = await read(after)
    const last = page.at(-1)
    if (!last) return
    yield page
    if (page.length < PAGE_ROWS) return
    after = { cursor: last.cursor, id: last.id }
  }
}

function readUsage(db: Db, scope: StatementScope, after: Cursor): Promise<(FocusLine & Cursor)[]> {
  return db.sql<(FocusLine & Cursor)[]>`
    select u.id, u.job_id as "jobId", u.team_id as "teamId", u.key_id as "keyId", u.sku_id as "skuId",
           u.price_version_id as "priceVersionId", 1 as images, u.list_micros as list, u.net_micros as net,
           u.credit_micros as credit, u.occurred_at as "usedAt", null as reason, u.occurred_at::text as cursor
      from usage_event u
     where ${inScope(db, scope, 'u')} and u.occurred_at >= ${after.cursor}::text::timestamptz
       and (u.occurred_at, u.id) > (${after.cursor}::text::timestamptz, ${after.id})
     order by u.occurred_at, u.id limit ${PAGE_ROWS}`
}

function readCorrections(
  db: Db,
  scope: StatementScope,
  after: Cursor,
): Promise<(FocusLine & Cursor)[]> {
  return db.sql<(FocusLine & Cursor)[]>`
    select c.id, u.job_id as "jobId", c.team_id as "teamId", c.key_id as "keyId", u.sku_id as "skuId",
           u.price_version_id as "priceVersionId", c.images, c.list_micros as list, c.net_micros as net,
           c.credit_micros as credit, u.occurred_at as "usedAt", c.reason, c.occurred_at::text as cursor
      from usage_correction c join usage_event u on u.id = c.usage_event_id
     where ${inScope(db, scope, 'c')} and c.occurred_at >= ${after.cursor}::text::timestamptz
       and (c.occurred_at, c.id) > (${after.cursor}::text::timestamptz, ${after.id})
     order by c.occurred_at, c.id limit ${PAGE_ROWS}`
}

/** Money of a prepaid org in and out, and paid credit that expired, told apart by the account on the other side. */
function readPayments(
  db: Db,
  { orgId, month }: StatementScope,
  after: Cursor,
): Promise<(FocusPayment & Cursor)[]> {
  return db.sql<(FocusPayment & Cursor)[]>`
    select * from (
      select t.id, t.occurred_at as at, t.occurred_at::text as cursor,
             coalesce(sum(e.amount_micros) filter (where a.type = 'clearing'), 0)::bigint as paid,
             coalesce(-sum(e.amount_micros) filter (where a.type = 'breakage'), 0)::bigint as expired
        from ledger_txn t
        join ledger_entry e on e.txn_id = t.id and e.phase = 'posted'
        join ledger_account a on a.id = e.account_id
       where t.occurred_at >= ${month.start} and t.occurred_at < ${month.end} and t.kind not in ('charge', 'refund')
         and (t.occurred_at, t.id) > (${after.cursor}::text::timestamptz, ${after.id})
         and t.id in (select own.txn_id from ledger_entry own
                        join ledger_account mine on mine.id = own.account_id
                        join org o on o.id = mine.org_id and o.settlement_mode = 'prepaid'
                       where mine.org_id = ${orgId} and own.phase = 'posted')
       group by t.id) payment
     where paid <> 0 or expired <> 0
     order by at, id limit ${PAGE_ROWS}`
}

/** A cent on each line of an invoice is rounding; more is a difference, and then no row claims to be on it. */
const CENT_MICROS = 10_000n

/** The one issued invoice of the month, when our lines agree with it. */
async function findInvoice(
  db: Db,
  { orgId, month }: StatementScope,
  document: StatementDocument,
): Promise<FocusInvoice | null> {
  const invoices = await db.sql<{ id: string; amountMicros: bigint; taxMicros: bigint }[]>`
    select id, amount_micros as "amountMicros", tax_micros as "taxMicros" from invoice
     where org_id = ${orgId} and period_start = ${month.start} and period_end = ${month.end}
       and state in ('open', 'paid', 'uncollectible') limit 2`
  const [invoice] = invoices
  if (!invoice || invoices.length > 1) return null
  if (document.team) return { id: invoice.id, taxMicros: 0n, roundingMicros: 0n }
  const roundingMicros = invoice.amountMicros - fromUsd(document.total.due)
  const bound = CENT_MICROS * BigInt(Math.max(1, document.skus.length))
  if (roundingMicros > bound || roundingMicros < -bound) return null
  return { id: invoice.id, taxMicros: invoice.taxMicros, roundingMicros }
}
