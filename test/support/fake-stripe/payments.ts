import { emit, FakeError, listOf, missing, newId, seconds } from './state.ts'
import type { CardBehavior, Checkout, FakeState, Intent, Wire } from './state.ts'
import type { Params, Route } from './server.ts'

/** Customers, checkout pages, payments, refunds, disputes. */
export const paymentRoutes: Route[] = [
  [
    'POST',
    '/v1/customers',
    (state, params) => {
      const id = newId(state, 'cus')
      const metadata = textsOf(params.metadata)
      state.customers.set(id, { id, name: String(params.name), metadata, card: 'pays' })
      return customerOf(state, id)
    },
  ],
  ['GET', '/v1/customers/:id', (state, _, [id = '']) => customerOf(state, id)],
  [
    'GET',
    '/v1/customers/:id/payment_methods',
    (state, _, [id = '']) => {
      const card = state.customers.get(id)?.card
      const data =
        card === 'none' || card === undefined ? [] : [{ id: `pm_${id}`, object: 'payment_method' }]
      return listOf(data, `/v1/customers/${id}/payment_methods`)
    },
  ],
  [
    'POST',
    '/v1/checkout/sessions',
    (state, params) => {
      const id = newId(state, 'cs_test')
      const [line] = params.line_items as { price_data: { unit_amount: string } }[]
      const intentData = (params.payment_intent_data ?? {}) as { metadata?: unknown }
      state.checkouts.set(id, {
        id,
        customer: String(params.customer),
        amount: Number(line?.price_data.unit_amount),
        status: 'open',
        paymentStatus: 'unpaid',
        intent: null,
        metadata: textsOf(params.metadata),
        intentMetadata: textsOf(intentData.metadata),
      })
      return checkoutOf(state, id)
    },
  ],
  ['GET', '/v1/checkout/sessions/:id', (state, _, [id = '']) => checkoutOf(state, id)],
  ['POST', '/v1/payment_intents', createIntent],
  ['GET', '/v1/payment_intents/:id', (state, _, [id = '']) => intentOf(state, id)],
  [
    'GET',
    '/v1/payment_intents',
    (state, params) =>
      listOf(
        [...state.intents.values()]
          .filter((intent) => intent.customer === params.customer)
          .map((intent) => intentOf(state, intent.id)),
        '/v1/payment_intents',
      ),
  ],
  ['GET', '/v1/charges/:id', (state, _, [id = '']) => chargeOf(state, id)],
  [
    'GET',
    '/v1/refunds',
    (state, params) =>
      listOf(
        [...state.refunds.values()]
          .filter((refund) => refund.charge === params.charge)
          .map((refund) => ({ ...refund, object: 'refund' })),
        '/v1/refunds',
      ),
  ],
  ['GET', '/v1/disputes/:id', (state, _, [id = '']) => disputeOf(state, id)],
  [
    'POST',
    '/v1/billing_portal/sessions',
    (state, params) => ({
      id: newId(state, 'bps'),
      object: 'billing_portal.session',
      customer: params.customer,
      url: `https://billing.example/p/${String(params.customer)}`,
      return_url: params.return_url,
    }),
  ],
]

function createIntent(state: FakeState, params: Params): Wire {
  const id = newId(state, 'pi')
  const customer = String(params.customer)
  const card: CardBehavior = state.customers.get(customer)?.card ?? 'none'
  const status =
    card === 'pays' ? 'succeeded' : card === 'asks' ? 'requires_action' : 'requires_payment_method'
  const metadata = textsOf(params.metadata)
  const error = status === 'succeeded' ? null : `The card was ${card}.`
  const intent = {
    id,
    customer,
    amount: Number(params.amount),
    status,
    error,
    metadata,
    charge: `ch_${id}`,
  }
  state.intents.set(id, intent)
  emit(
    state,
    status === 'succeeded' ? 'payment_intent.succeeded' : 'payment_intent.payment_failed',
    intentOf(state, id),
  )
  if (status !== 'succeeded') {
    throw new FakeError(
      402,
      {
        type: 'card_error',
        code: 'card_declined',
        message: error,
        payment_intent: intentOf(state, id),
      },
      true,
    )
  }
  return intentOf(state, id)
}

/** The payer fills in the page. `later` = by a bank debit that settles afterwards. */
export function payCheckout(state: FakeState, id: string, how: 'now' | 'later' = 'now'): string {
  const checkout = find(state.checkouts, id)
  const intentId = newId(state, 'pi')
  const status = how === 'now' ? 'succeeded' : 'processing'
  state.intents.set(intentId, {
    id: intentId,
    customer: checkout.customer,
    amount: checkout.amount,
    status,
    error: null,
    metadata: checkout.intentMetadata,
    charge: `ch_${intentId}`,
  })
  Object.assign(checkout, {
    status: 'complete',
    paymentStatus: how === 'now' ? 'paid' : 'unpaid',
    intent: intentId,
  } satisfies Partial<Checkout>)
  if (how === 'now') emit(state, 'payment_intent.succeeded', intentOf(state, intentId))
  emit(state, 'checkout.session.completed', checkoutOf(state, id))
  return intentId
}

/** The bank's answer to a debit. */
export function settleCheckout(state: FakeState, id: string, isPaid: boolean): void {
  const checkout = find(state.checkouts, id)
  const intent = find(state.intents, checkout.intent ?? '')
  intent.status = isPaid ? 'succeeded' : 'canceled'
  if (isPaid) checkout.paymentStatus = 'paid'
  emit(
    state,
    `checkout.session.async_payment_${isPaid ? 'succeeded' : 'failed'}`,
    checkoutOf(state, id),
  )
}

export function expireCheckout(state: FakeState, id: string): void {
  find(state.checkouts, id).status = 'expired'
  emit(state, 'checkout.session.expired', checkoutOf(state, id))
}

export function refund(state: FakeState, intentId: string, amount: number): void {
  const id = newId(state, 're')
  const { charge } = find(state.intents, intentId)
  state.refunds.set(id, { id, charge, amount, status: 'succeeded' })
  emit(state, 'charge.refunded', chargeOf(state, charge))
}

export function openDispute(state: FakeState, intentId: string): string {
  const id = newId(state, 'dp')
  state.disputes.set(id, {
    id,
    intent: intentId,
    amount: find(state.intents, intentId).amount,
    status: 'needs_response',
  })
  emit(state, 'charge.dispute.created', disputeOf(state, id))
  return id
}

export function closeDispute(state: FakeState, id: string, status: 'won' | 'lost'): void {
  find(state.disputes, id).status = status
  emit(state, 'charge.dispute.closed', disputeOf(state, id))
}

function customerOf(state: FakeState, id: string): Wire {
  const { name, metadata } = find(state.customers, id)
  return {
    id,
    object: 'customer',
    name,
    metadata,
    invoice_settings: { default_payment_method: null },
  }
}

function checkoutOf(state: FakeState, id: string): Wire {
  const { status, paymentStatus, customer, amount, metadata, intent } = find(state.checkouts, id)
  return {
    id,
    object: 'checkout.session',
    mode: 'payment',
    status,
    payment_status: paymentStatus,
    customer,
    amount_total: amount,
    currency: 'usd',
    metadata,
    url: status === 'open' ? `https://checkout.example/${id}` : null,
    payment_intent: intent === null ? null : intentOf(state, intent),
  }
}

function intentOf(state: FakeState, id: string): Wire {
  const intent: Intent = find(state.intents, id)
  return {
    id,
    object: 'payment_intent',
    amount: intent.amount,
    amount_received: intent.status === 'succeeded' ? intent.amount : 0,
    currency: 'usd',
    customer: intent.customer,
    status: intent.status,
    metadata: intent.metadata,
    latest_charge: intent.charge,
    last_payment_error: intent.error === null ? null : { message: intent.error },
    created: seconds(state.nowMs),
  }
}

function chargeOf(state: FakeState, id: string): Wire {
  const intent = [...state.intents.values()].find(({ charge }) => charge === id)
  if (!intent) throw missing(id)
  return {
    id,
    object: 'charge',
    amount: intent.amount,
    customer: intent.customer,
    payment_intent: intent.id,
  }
}

function disputeOf(state: FakeState, id: string): Wire {
  const { intent, amount, status } = find(state.disputes, id)
  const charge = chargeOf(state, find(state.intents, intent).charge)
  return { id, object: 'dispute', amount, currency: 'usd', status, charge, payment_intent: intent }
}

export function find<T>(map: ReadonlyMap<string, T>, id: string): T {
  const found = map.get(id)
  if (found === undefined) throw missing(id)
  return found
}

export function textsOf(value: unknown): Record<string, string> {
  return Object.fromEntries(Object.entries(value ?? {}).map(([name, text]) => [name, String(text)]))
}
