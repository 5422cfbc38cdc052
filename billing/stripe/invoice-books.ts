import type { Db } from '../../db/client.ts'
import { fromCents, toSeconds } from './client.ts'
import type { Stripe, StripeDeps } from './client.ts'
import { recordDifference } from './reconcile.ts'

export type InvoiceState = 'draft' | 'held' | 'open' | 'paid' | 'void' | 'uncollectible'

/** Our side and theirs of the lines that come from us. */
export interface Comparison {
  expectedMicros: bigint
  linesMicros: bigint
  /** Span of the metered usage on it, null when it bills none. */
  metered: { from: Date; to: Date } | null
  /** What is wrong; null when both agree to a cent a line. */
  problem: string | null
  /** Images agree and money does not: the price at Stripe is not the org's own. */
  isPriceAlone: boolean
}

/** Later in an invoice's life; a stale reading never takes one back. */
const RANK: Readonly<Record<InvoiceState, number>> = {
  draft: 0,
  held: 0,
  open: 1,
  uncollectible: 2,
  void: 3,
  paid: 3,
}

/** Writes an invoice as it was read; what is further on in its life stays. */
export async function keepInvoice(
  tx: Db,
  input: {
    orgId: string
    invoice: Stripe.Invoice
    state: InvoiceState
    compared: Comparison
    now: Date
  },
): Promise<void> {
  const { invoice, orgId, state, compared } = input
  const start = compared.metered?.from ?? new Date(invoice.period_start * 1000)
  const end = compared.metered?.to ?? new Date(invoice.period_end * 1000)
  const tax = (invoice.total_taxes ?? []).reduce((sum, { amount }) => sum + fromCents(amount), 0n)
  const net = fromCents(invoice.total) - tax
  const isOverdue = state === 'open' && isUnpaid(invoice, input.now)
  const problem = isOverdue ? 'overdue' : compared.problem
  const lower = Object.entries(RANK).flatMap(([name, rank]) => (rank <= RANK[state] ? [name] : []))
  await tx.sql`
    insert into invoice (id, org_id, period_start, period_end, is_metered, state, amount_micros, tax_micros,
                         expected_micros, lines_micros, problem, updated_at)
    values (${invoice.id}, ${orgId}, ${start}, ${end}, ${compared.metered !== null}, ${state}, ${net}::bigint, ${tax}::bigint,
            ${compared.expectedMicros}::bigint, ${compared.linesMicros}::bigint, ${problem}, ${input.now})
    on conflict (id) do update set
      period_start = excluded.period_start, period_end = excluded.period_end,
      is_metered = excluded.is_metered, state = excluded.state,
      amount_micros = excluded.amount_micros, tax_micros = excluded.tax_micros,
      expected_micros = excluded.expected_micros, lines_micros = excluded.lines_micros,
      problem = excluded.problem, updated_at = excluded.updated_at
     where invoice.state = any(${lower})`
}

/** Stripe has stopped trying to collect it, or its day has passed. */
function isUnpaid(invoice: Stripe.Invoice, now: Date): boolean {
  if (invoice.due_date !== null) return invoice.due_date < toSeconds(now)
  return invoice.attempted && invoice.next_payment_attempt === null
}

/**
 * Ledger of an invoice, each part once: at finalising the rounding of its lines, at payment what was owed; what is
 * given up goes to the write-off account, and comes back from there if it is paid after all.
 */
export async function postInvoice(
  deps: StripeDeps,
  tx: Db,
  input: {
    orgId: string
    invoice: Stripe.Invoice
    state: InvoiceState
    compared: Comparison
  },
): Promise<void> {
  const { orgId, invoice, state, compared } = input
  if (state === 'draft' || state === 'held' || state === 'void') return
  const receivable = `receivable:${orgId}`
  if (compared.problem === null) {
    await transfer(tx, 'rounding', invoice.id, {
      debit: receivable,
      credit: 'rounding',
      amountMicros: compared.linesMicros - compared.expectedMicros,
    })
  } else {
    await recordDifference(deps, `invoice:${invoice.id}`, {
      ours: compared.expectedMicros.toString(),
      theirs: compared.linesMicros.toString(),
      action: `finalised with a difference: ${compared.problem}`,
    })
  }
  const amountMicros = compared.linesMicros
  if (state === 'uncollectible') {
    await transfer(tx, 'write_off', invoice.id, {
      debit: 'write_off',
      credit: receivable,
      amountMicros,
    })
  }
  if (state !== 'paid') return
  const [given] = await tx.sql`
    select 1 from ledger_txn where kind = 'write_off' and source_id = ${invoice.id}`
  await transfer(tx, 'invoice_payment', invoice.id, {
    debit: 'clearing',
    credit: given ? 'write_off' : receivable,
    amountMicros,
  })
}

async function transfer(
  tx: Db,
  kind: string,
  sourceId: string,
  entry: { debit: string; credit: string; amountMicros: bigint },
): Promise<void> {
  if (entry.amountMicros === 0n) return
  await tx.sql`
    select post_transfer(${kind}, ${sourceId}, ${entry.debit}, ${entry.credit}, ${entry.amountMicros}::bigint, 'posted')`
}

/** Stripe's word as ours. */
export function toInvoiceState(status: Stripe.Invoice.Status | null): InvoiceState {
  const known = (['open', 'paid', 'void', 'uncollectible'] as const).find((name) => name === status)
  return known ?? 'draft'
}
