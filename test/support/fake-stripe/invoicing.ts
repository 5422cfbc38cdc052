import { processMeterEvents, quantityOf } from './metering.ts'
import { find, textsOf } from './payments.ts'
import { emit, invalid, listOf, newId, seconds } from './state.ts'
import type { FakeState, Invoice, InvoiceItem, Wire } from './state.ts'
import type { Route } from './server.ts'

const HOUR_MS = 3_600_000
/** Time between draft and finalisation. */
const GRACE_MS = HOUR_MS

/** Subscriptions, invoice items and invoices that go draft, open, paid. */
export const invoiceRoutes: Route[] = [
  [
    'POST',
    '/v1/subscriptions',
    (state, params) => {
      const id = newId(state, 'sub')
      state.subscriptions.set(id, {
        id,
        customer: String(params.customer),
        status: 'active',
        startMs: state.nowMs,
        endedMs: null,
        periodStartMs: state.nowMs,
        metadata: textsOf(params.metadata),
      })
      emit(state, 'customer.subscription.created', subscriptionOf(state, id))
      return subscriptionOf(state, id)
    },
  ],
  ['GET', '/v1/subscriptions/:id', (state, _, [id = '']) => subscriptionOf(state, id)],
  [
    'POST',
    '/v1/invoiceitems',
    (state, params) => {
      const id = newId(state, 'ii')
      const invoice = typeof params.invoice === 'string' ? params.invoice : null
      if (invoice !== null && find(state.invoices, invoice).status !== 'draft')
        throw invalid('the invoice is not a draft')
      const amount = Number(params.amount)
      if (!Number.isInteger(amount)) throw invalid('amount must be whole cents')
      const item: InvoiceItem = {
        id,
        customer: String(params.customer),
        amount,
        currency: String(params.currency),
        description: String(params.description),
        metadata: textsOf(params.metadata),
        createdMs: state.nowMs,
        invoice,
      }
      state.items.set(id, item)
      return { id, object: 'invoiceitem', amount, customer: item.customer, metadata: item.metadata }
    },
  ],
  [
    'GET',
    '/v1/invoiceitems',
    (state, params) =>
      listOf(
        [...state.items.values()]
          .filter((item) => item.customer === params.customer)
          .map((item) => ({
            id: item.id,
            object: 'invoiceitem',
            metadata: item.metadata,
            amount: item.amount,
          })),
        '/v1/invoiceitems',
      ),
  ],
  [
    'POST',
    '/v1/invoices',
    (state, params) => {
      const invoice = draftInvoice(state, {
        customer: String(params.customer),
        subscription: null,
        periodStartMs: state.nowMs,
        periodEndMs: state.nowMs,
        metadata: textsOf(params.metadata),
      })
      return invoiceOf(state, invoice.id)
    },
  ],
  [
    'GET',
    '/v1/invoices',
    (state, params) =>
      listOf(
        [...state.invoices.values()]
          .filter((invoice) => invoice.customer === params.customer)
          .map((invoice) => invoiceOf(state, invoice.id)),
        '/v1/invoices',
      ),
  ],
  ['GET', '/v1/invoices/:id', (state, _, [id = '']) => invoiceOf(state, id)],
  [
    'POST',
    '/v1/invoices/:id',
    (state, params, [id = '']) => {
      const invoice = find(state.invoices, id)
      if (invoice.status !== 'draft') throw invalid('only drafts can be changed')
      if (params.automatically_finalizes_at !== undefined) {
        invoice.finalizesAtMs = Number(params.automatically_finalizes_at) * 1000
        if (invoice.finalizesAtMs < state.nowMs) throw invalid('automatically_finalizes_at is past')
      }
      for (const [name, value] of Object.entries(textsOf(params.metadata))) {
        if (value === '') delete invoice.metadata[name]
        else invoice.metadata[name] = value
      }
      return invoiceOf(state, id)
    },
  ],
  [
    'GET',
    '/v1/invoices/:id/lines',
    (state, _, [id = '']) =>
      listOf(linesOf(state, find(state.invoices, id)), `/v1/invoices/${id}/lines`),
  ],
]

/** Ends a subscription's period: a draft with what the meter holds so far, and every pending item. */
export function closePeriod(state: FakeState, subscriptionId: string): string {
  const subscription = find(state.subscriptions, subscriptionId)
  const end = Math.floor(state.nowMs / HOUR_MS) * HOUR_MS
  const invoice = draftInvoice(state, {
    customer: subscription.customer,
    subscription: subscriptionId,
    periodStartMs: Math.floor(subscription.periodStartMs / HOUR_MS) * HOUR_MS,
    periodEndMs: end,
    metadata: {},
  })
  subscription.periodStartMs = end
  return invoice.id
}

function draftInvoice(
  state: FakeState,
  input: Pick<Invoice, 'customer' | 'subscription' | 'periodStartMs' | 'periodEndMs' | 'metadata'>,
): Invoice {
  const invoice: Invoice = {
    ...input,
    id: newId(state, 'in'),
    status: 'draft',
    createdMs: state.nowMs,
    finalizesAtMs: state.nowMs + GRACE_MS,
    changedAtMs: {},
    attempted: false,
    frozenQuantity: null,
  }
  state.invoices.set(invoice.id, invoice)
  for (const item of state.items.values()) {
    if (item.customer === invoice.customer && item.invoice === null) item.invoice = invoice.id
  }
  emit(state, 'invoice.created', invoiceOf(state, invoice.id))
  return invoice
}

/** Finalises the drafts whose time has come, and collects them. */
export function finalizeDue(state: FakeState, collect: 'pays' | 'fails' = 'pays'): void {
  processMeterEvents(state)
  for (const invoice of state.invoices.values()) {
    const isDue = invoice.finalizesAtMs !== null && invoice.finalizesAtMs <= state.nowMs
    if (invoice.status !== 'draft' || !isDue) continue
    invoice.frozenQuantity = quantityOf(state, invoice)
    invoice.status = 'open'
    invoice.finalizesAtMs = null
    invoice.changedAtMs.finalized = state.nowMs
    emit(state, 'invoice.finalized', invoiceOf(state, invoice.id))
    invoice.attempted = true
    if (collect === 'pays') {
      invoice.status = 'paid'
      invoice.changedAtMs.paid = state.nowMs
      emit(state, 'invoice.paid', invoiceOf(state, invoice.id))
    } else emit(state, 'invoice.payment_failed', invoiceOf(state, invoice.id))
  }
}

/** An operator or Stripe moves an invoice on. */
export function setInvoice(
  state: FakeState,
  id: string,
  status: 'paid' | 'void' | 'uncollectible',
): void {
  const names = { paid: 'paid', void: 'voided', uncollectible: 'marked_uncollectible' } as const
  const invoice = find(state.invoices, id)
  invoice.status = status
  invoice.changedAtMs[names[status]] = state.nowMs
  emit(state, `invoice.${names[status]}`, invoiceOf(state, id))
}

export function cancelSubscription(state: FakeState, id: string): void {
  const subscription = find(state.subscriptions, id)
  subscription.status = 'canceled'
  subscription.endedMs = state.nowMs
  emit(state, 'customer.subscription.deleted', subscriptionOf(state, id))
}

/** 1.5 cents an image; halves go up, as we take it until a sandbox says. */
export function centsOf(quantity: bigint): number {
  return Number((quantity * 3n + 1n) / 2n)
}

function linesOf(state: FakeState, invoice: Invoice): Wire[] {
  const base = { object: 'line_item', currency: 'usd', invoice: invoice.id }
  const lines: Wire[] = [...state.items.values()]
    .filter((item) => item.invoice === invoice.id)
    .map((item) => ({
      ...base,
      id: `il_${item.id}`,
      amount: item.amount,
      quantity: 1,
      metadata: item.metadata,
      parent: { type: 'invoice_item_details', invoice_item_details: { invoice_item: item.id } },
      period: { start: seconds(item.createdMs), end: seconds(item.createdMs) },
    }))
  if (invoice.subscription !== null) {
    const quantity = quantityOf(state, invoice)
    lines.push({
      ...base,
      id: `il_${invoice.id}_usage`,
      amount: centsOf(quantity),
      quantity: Number(quantity),
      metadata: {},
      parent: { type: 'subscription_item_details', subscription_item_details: {} },
      period: { start: seconds(invoice.periodStartMs), end: seconds(invoice.periodEndMs) },
    })
  }
  return lines
}

function invoiceOf(state: FakeState, id: string): Wire {
  const invoice = find(state.invoices, id)
  const total = linesOf(state, invoice).reduce((sum, line) => sum + Number(line.amount), 0)
  return {
    id,
    object: 'invoice',
    customer: invoice.customer,
    status: invoice.status,
    currency: 'usd',
    metadata: invoice.metadata,
    created: seconds(invoice.createdMs),
    period_start: seconds(invoice.periodStartMs),
    period_end: seconds(invoice.periodEndMs),
    automatically_finalizes_at:
      invoice.finalizesAtMs === null ? null : seconds(invoice.finalizesAtMs),
    due_date: null,
    status_transitions: transitionsOf(invoice),
    attempted: invoice.attempted,
    next_payment_attempt: null,
    billing_reason: invoice.subscription === null ? 'manual' : 'subscription_cycle',
    total,
    total_taxes: [],
  }
}

function transitionsOf({ changedAtMs }: Invoice): Wire {
  const names = ['finalized', 'paid', 'voided', 'marked_uncollectible'] as const
  return Object.fromEntries(
    names.map((name) => {
      const ms = changedAtMs[name]
      return [`${name}_at`, ms === undefined ? null : seconds(ms)]
    }),
  )
}

function subscriptionOf(state: FakeState, id: string): Wire {
  const { customer, status, startMs, endedMs, metadata } = find(state.subscriptions, id)
  return {
    id,
    object: 'subscription',
    customer,
    status,
    metadata,
    start_date: seconds(startMs),
    ended_at: endedMs === null ? null : seconds(endedMs),
  }
}
