import type { Db } from '../../db/client.ts'
import { withTransaction } from '../../db/client.ts'
import { CENT_MICROS, fromCents, idOf, toSeconds } from './client.ts'
import type { Stripe, StripeDeps } from './client.ts'
import { findOrgOfCustomer } from './customer.ts'
import { keepInvoice, postInvoice, toInvoiceState } from './invoice-books.ts'
import type { Comparison } from './invoice-books.ts'
import { recordDifference } from './reconcile.ts'
import { startOfHour } from './seal.ts'
import { toInvoiceCents } from './sink.ts'

/** A draft that disagrees is kept from being finalised for this long at a time. */
const HOLD_SECONDS = 72 * 3_600
/** The hold is renewed when less than this is left. */
const HOLD_MARGIN_SECONDS = 48 * 3_600
/** After its books agree, a held draft is finalised this soon. */
const RELEASE_SECONDS = 600
/**
 * Metadata of a draft that we hold. It is set by the very call that holds it, so that whoever looks next knows, also
 * when the one who held it died before it wrote that down.
 */
const HOLD_MARK = 'held_until_books_agree'
/** A draft is read again after this: late usage of its period may have been told meanwhile. */
const DRAFT_RECHECK_SECONDS = 300
/** A line whose period ends within this of the invoice's making bills what was used. */
const ARREARS_SECONDS = 3_600
/** One for each price and correction; a bound and not a limit of ours. */
const MAX_LINES = 2_000

/**
 * Reads an invoice from Stripe and follows it: a draft is compared with our books and held while they disagree, a
 * finalised one gets its rounding posted, a paid one closes what was owed. Safe to repeat, in any order.
 */
export async function syncInvoice(deps: StripeDeps, invoiceId: string): Promise<void> {
  const invoice = await deps.stripe.invoices.retrieve(invoiceId)
  const orgId = await findOrgOfCustomer(deps, idOf(invoice.customer))
  if (orgId === null) return
  const lines = await deps.stripe.invoices
    .listLineItems(invoiceId, { limit: 100 })
    .autoPagingToArray({ limit: MAX_LINES })
  const compared = await compare(deps.db, orgId, invoice, lines)
  if (invoice.status === 'draft') await holdOrRelease(deps, invoice, compared)
  const isHeld = invoice.status === 'draft' && compared.problem !== null
  const state = isHeld ? 'held' : toInvoiceState(invoice.status)
  await withTransaction(deps.db, async (tx) => {
    await keepInvoice(tx, { orgId, invoice, state, compared, now: deps.now() })
    await postInvoice(deps, tx, { orgId, invoice, state, compared })
    await tx.sql`select refresh_freeze(${orgId})`
  })
}

/** Looks again at drafts, the held ones first of all, until their books agree. @returns how many */
export async function checkDrafts(deps: StripeDeps, input: { limit: number }): Promise<number> {
  const rows = await deps.db.sql<{ id: string }[]>`
    select id from invoice
     where state in ('draft', 'held')
       and updated_at <= ${deps.now()}::timestamptz - make_interval(secs => ${DRAFT_RECHECK_SECONDS})
     order by state = 'held' desc, updated_at limit ${input.limit}`
  for (const { id } of rows) await syncInvoice(deps, id)
  return rows.length
}

async function compare(
  db: Db,
  orgId: string,
  invoice: Stripe.Invoice,
  lines: readonly Stripe.InvoiceLineItem[],
): Promise<Comparison> {
  let expectedMicros = 0n
  let linesMicros = 0n
  let roundedLines = 0n
  let metered: Comparison['metered'] = null
  let miscount: string | null = null
  for (const line of lines) {
    const ours = await expectedOf(db, orgId, invoice, line)
    if (ours === null) continue
    // An adjustment brought the sum to what was due, to the cent: it leaves nothing of its own to chance.
    if (line.metadata.adjusts_invoice === undefined) roundedLines += 1n
    expectedMicros += ours.micros
    linesMicros += fromCents(line.amount)
    if (ours.span === null) continue
    metered = joinSpans(metered, ours.span)
    if (BigInt(line.quantity ?? 0) !== ours.images) {
      miscount ??= `line ${line.id} counts ${line.quantity ?? 0} images, our books ${ours.images}`
    }
  }
  const difference = linesMicros - expectedMicros
  const bound = CENT_MICROS * roundedLines
  const isOff = difference > bound || difference < -bound
  const mispriced = `lines add up to ${linesMicros} micro-USD, our books to ${expectedMicros}`
  const problem = miscount ?? (isOff ? mispriced : null)
  return { expectedMicros, linesMicros, metered, problem, isPriceAlone: miscount === null && isOff }
}

type Expected =
  | { micros: bigint; span: null }
  | { micros: bigint; images: bigint; span: { from: Date; to: Date } }

/** What our books say to a line; null for lines that are not ours. */
async function expectedOf(
  db: Db,
  orgId: string,
  invoice: Stripe.Invoice,
  line: Stripe.InvoiceLineItem,
): Promise<Expected | null> {
  const { identifier, adjusts_invoice: adjusted } = line.metadata
  if (adjusted !== undefined) return { micros: 0n, span: null }
  if (identifier !== undefined) {
    const [row] = await db.sql<{ micros: bigint }[]>`
      select due_micros - base_micros as micros from meter_report
       where identifier = ${identifier} and org_id = ${orgId}`
    return row ? { micros: row.micros, span: null } : null
  }
  // Usage is billed after its period; the first invoice of a subscription also lists the period to come.
  const isUsage = line.parent?.type === 'subscription_item_details'
  if (!isUsage || line.period.end > invoice.created + ARREARS_SECONDS) return null
  const span = {
    from: startOfHour(new Date(line.period.start * 1000)),
    to: startOfHour(new Date(line.period.end * 1000)),
  }
  // A finalised line says what the meter was told by then; a draft must say what is true now, but for changes that
  // came too late for the meter: those go on the next invoice.
  const [row] =
    invoice.status === 'draft'
      ? await db.sql<{ micros: bigint; images: bigint }[]>`
          select (u.due_micros - coalesce(sum(r.due_micros - r.base_micros), 0))::bigint as micros,
                 (u.quantity - coalesce(sum(r.quantity - r.base_quantity), 0))::bigint as images
            from usage_of_span(${orgId}, ${span.from}, ${span.to}, true) u
            left join meter_report r on r.org_id = ${orgId} and r.meter = 'images' and r.channel = 'invoice_item'
                  and r.hour >= ${span.from} and r.hour < ${span.to} and r.state <> 'failed'
           group by u.due_micros, u.quantity`
      : await db.sql<{ micros: bigint; images: bigint }[]>`
          select due_micros as micros, quantity as images
            from told_of_span(${orgId}, ${span.from}, ${span.to})`
  return row ? { ...row, span } : null
}

function joinSpans(
  a: { from: Date; to: Date } | null,
  b: { from: Date; to: Date },
): { from: Date; to: Date } {
  if (a === null) return b
  return { from: a.from < b.from ? a.from : b.from, to: a.to > b.to ? a.to : b.to }
}

async function holdOrRelease(
  deps: StripeDeps,
  invoice: Stripe.Invoice,
  compared: Comparison,
): Promise<void> {
  const now = toSeconds(deps.now())
  const at = invoice.automatically_finalizes_at
  if (compared.problem === null) {
    if (invoice.metadata?.[HOLD_MARK] !== undefined) {
      await deps.stripe.invoices.update(invoice.id, {
        automatically_finalizes_at: now + RELEASE_SECONDS,
        metadata: { [HOLD_MARK]: '' },
      })
    }
    return
  }
  // A draft that nobody finalises by itself needs no hold.
  if (at !== null && at < now + HOLD_MARGIN_SECONDS) {
    await deps.stripe.invoices.update(invoice.id, {
      automatically_finalizes_at: now + HOLD_SECONDS,
      metadata: { [HOLD_MARK]: 'true' },
    })
  }
  const [row] = await deps.db.sql<{ problem: string | null }[]>`
    select problem from invoice where id = ${invoice.id}`
  if (row?.problem !== compared.problem) {
    await recordDifference(deps, `invoice:${invoice.id}`, {
      ours: compared.expectedMicros.toString(),
      theirs: compared.linesMicros.toString(),
      action: `held: ${compared.problem}`,
    })
  }
  if (compared.isPriceAlone) await adjust(deps, invoice, compared)
}

/**
 * Brings a draft to what the org owes where its contract, tiers or promotional credit differ from the one price that
 * Stripe knows. The key holds both sums, so one difference is mended once.
 */
async function adjust(
  deps: StripeDeps,
  invoice: Stripe.Invoice,
  { expectedMicros, linesMicros }: Comparison,
): Promise<void> {
  const customer = idOf(invoice.customer)
  if (customer === null) return
  await deps.stripe.invoiceItems.create(
    {
      customer,
      invoice: invoice.id,
      currency: invoice.currency,
      amount: Number(toInvoiceCents(expectedMicros) - toInvoiceCents(linesMicros)),
      description: 'Contract price, discounts and credits',
      metadata: { adjusts_invoice: invoice.id },
    },
    { idempotencyKey: `adjust:${invoice.id}:${linesMicros}:${expectedMicros}` },
  )
}
