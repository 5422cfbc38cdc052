import { fromCents } from '../stripe/client.ts'
import type { Stripe, StripeDeps } from '../stripe/client.ts'
import { findMeterId } from '../stripe/customer.ts'
import { readSummaries } from '../stripe/reconcile.ts'
import type { Difference } from './difference.ts'

type Deps = Pick<StripeDeps, 'db' | 'stripe' | 'now'>

const HOUR_MS = 3_600_000
const DAY_MS = 24 * HOUR_MS
/** Stripe's summaries lag behind, and its news reach us a while after they are true: younger is not compared. */
const SETTLED_AFTER_MS = HOUR_MS
/** Rows that are read and asked for at a time. */
const PAGE = 200

/**
 * What Stripe holds of metered hours, invoices and top-ups beside what our rows say Stripe holds. What changed within
 * the last hour, and windows that are being told right now, are left out. Reads only, on both sides.
 *
 * @param options.days how far back
 * @throws the SDK's error when Stripe does not answer
 */
export async function compareStripe(deps: Deps, { days }: { days: number }): Promise<Difference[]> {
  const to = new Date(deps.now().getTime() - SETTLED_AFTER_MS)
  const span = { from: new Date(to.getTime() - days * DAY_MS), to }
  return [
    ...(await compareHours(deps, span)),
    ...(await compareInvoices(deps, span)),
    ...(await compareTopups(deps, span)),
  ]
}

interface Span {
  from: Date
  to: Date
}

async function compareHours(deps: Deps, span: Span): Promise<Difference[]> {
  const orgs = await deps.db.sql<{ orgId: string; customer: string }[]>`
    select id as "orgId", stripe_customer_id as customer from org o
     where stripe_customer_id is not null and exists (
       select 1 from meter_report r where r.org_id = o.id and r.channel = 'meter' and r.hour >= ${span.from})
     order by id`
  if (orgs.length === 0) return []
  const meterId = await findMeterId(deps)
  const found: Difference[] = []
  for (const { orgId, customer } of orgs) {
    const from = new Date(Math.ceil(span.from.getTime() / HOUR_MS) * HOUR_MS)
    const to = new Date(Math.floor(span.to.getTime() / HOUR_MS) * HOUR_MS)
    const theirs = await readSummaries(deps, { meterId, customer, from, to })
    const ours = await readHours(deps, orgId, { from, to, before: span.to })
    for (const { hour, quantity } of ours.told) {
      const summary = theirs.get(hour) ?? 0n
      theirs.delete(hour)
      if (summary !== quantity) found.push(ofHour(orgId, hour, quantity, summary))
    }
    for (const hour of ours.moving) theirs.delete(hour)
    for (const [hour, summary] of theirs) {
      if (summary !== 0n) found.push(ofHour(orgId, hour, 0n, summary))
    }
  }
  return found
}

/** Hours of an org by what Stripe took last; those where a telling is under way, or has just arrived, apart. */
async function readHours(deps: Deps, orgId: string, span: Span & { before: Date }) {
  const rows = await deps.db.sql<{ hour: Date; quantity: bigint; isMoving: boolean }[]>`
    select hour, coalesce((array_agg(quantity order by revision desc)
             filter (where state in ('accepted', 'confirmed', 'superseded')))[1], 0)::bigint as quantity,
           bool_or(state in ('sealed', 'sending', 'unknown') or accepted_at > ${span.before}) as "isMoving"
      from meter_report
     where org_id = ${orgId} and meter = 'images' and channel = 'meter'
       and hour >= ${span.from} and hour < ${span.to}
     group by hour order by hour`
  const settled = rows.filter(({ isMoving }) => !isMoving)
  return {
    told: settled.map(({ hour, quantity }) => ({ hour: hour.getTime(), quantity })),
    moving: rows.filter(({ isMoving }) => isMoving).map(({ hour }) => hour.getTime()),
  }
}

function ofHour(orgId: string, hour: number, expected: bigint, found: bigint): Difference {
  return {
    check: 'stripe_hour',
    ids: { org: orgId, hour: new Date(hour).toISOString() },
    expected: String(expected),
    found: String(found),
  }
}

interface InvoiceRow {
  id: string
  state: string
  netMicros: bigint
}

async function compareInvoices(deps: Deps, span: Span): Promise<Difference[]> {
  const found: Difference[] = []
  for (let after = ''; ;) {
    const rows: InvoiceRow[] = await deps.db.sql<InvoiceRow[]>`
      select id, state, amount_micros as "netMicros" from invoice
       where id > ${after} and state not in ('draft', 'held')
         and updated_at >= ${span.from} and updated_at < ${span.to}
       order by id limit ${PAGE}`
    for (const row of rows) {
      const invoice = await deps.stripe.invoices.retrieve(row.id)
      if (isYoung(invoice, span.to)) continue
      const tax = (invoice.total_taxes ?? []).reduce(
        (sum, { amount }) => sum + fromCents(amount),
        0n,
      )
      const net = fromCents(invoice.total) - tax
      const ids = { invoice: row.id }
      if (net !== row.netMicros) {
        const [expected, amount] = [String(row.netMicros), String(net)]
        found.push({ check: 'stripe_invoice', ids, expected, found: amount })
      }
      if (invoice.status !== row.state) {
        const status = String(invoice.status)
        found.push({ check: 'stripe_invoice_state', ids, expected: row.state, found: status })
      }
    }
    const last = rows.at(-1)
    if (rows.length < PAGE || !last) return found
    after = last.id
  }
}

/** Its news may not have reached us. */
function isYoung({ status_transitions: at }: Stripe.Invoice, before: Date): boolean {
  const changes = [at.finalized_at, at.paid_at, at.voided_at, at.marked_uncollectible_at]
  return changes.some((seconds) => seconds !== null && seconds * 1000 >= before.getTime())
}

interface TopupRow {
  id: string
  orgId: string
  intent: string
  state: string
  micros: bigint
}

async function compareTopups(deps: Deps, span: Span): Promise<Difference[]> {
  const found: Difference[] = []
  for (let after = ''; ;) {
    const rows: TopupRow[] = await deps.db.sql<TopupRow[]>`
      select id, org_id as "orgId", payment_intent as intent, state,
             case state when 'paid' then amount_micros else 0 end::bigint as micros
        from topup
       where id > ${after} and payment_intent is not null
         and coalesce(settled_at, created_at) >= ${span.from} and coalesce(settled_at, created_at) < ${span.to}
       order by id limit ${PAGE}`
    for (const { id, orgId, intent, micros } of rows) {
      const payment = await deps.stripe.paymentIntents.retrieve(intent)
      const received = payment.status === 'succeeded' ? fromCents(payment.amount_received) : 0n
      if (received === micros) continue
      const ids = { topup: id, org: orgId, payment: intent }
      found.push({ check: 'stripe_topup', ids, expected: String(micros), found: String(received) })
    }
    const last = rows.at(-1)
    if (rows.length < PAGE || !last) return found
    after = last.id
  }
}
