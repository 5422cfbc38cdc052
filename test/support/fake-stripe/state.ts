/** A JSON object of Stripe's. */
export type Wire = Record<string, unknown>

export interface FakeEvent {
  id: string
  type: string
  body: string
}

export interface MeterEvent {
  identifier: string
  customer: string
  hourMs: number
  value: bigint
  receivedMs: number
  /** Stripe found it wrong after it had taken it. */
  isRejected: boolean
  isProcessed: boolean
}

export interface InvoiceItem {
  id: string
  customer: string
  amount: number
  currency: string
  description: string
  metadata: Record<string, string>
  createdMs: number
  invoice: string | null
}

export interface Invoice {
  id: string
  customer: string
  subscription: string | null
  status: 'draft' | 'open' | 'paid' | 'void' | 'uncollectible'
  periodStartMs: number
  periodEndMs: number
  createdMs: number
  finalizesAtMs: number | null
  /** When it was finalised, paid, voided or given up. */
  changedAtMs: Partial<Record<'finalized' | 'paid' | 'voided' | 'marked_uncollectible', number>>
  metadata: Record<string, string>
  attempted: boolean
  /** Quantity and amount as finalised; drafts are counted anew at each look. */
  frozenQuantity: bigint | null
}

export interface Subscription {
  id: string
  customer: string
  status: string
  startMs: number
  endedMs: number | null
  periodStartMs: number
  metadata: Record<string, string>
}

export interface Checkout {
  id: string
  customer: string
  amount: number
  status: 'open' | 'complete' | 'expired'
  paymentStatus: 'unpaid' | 'paid'
  intent: string | null
  metadata: Record<string, string>
  intentMetadata: Record<string, string>
}

export interface Intent {
  id: string
  customer: string
  amount: number
  status: string
  error: string | null
  metadata: Record<string, string>
  charge: string
}

export type CardBehavior = 'pays' | 'declined' | 'asks' | 'none'

/** Everything that the fake remembers. Its clock stands still unless it is moved. */
export interface FakeState {
  nowMs: number
  nextId: number
  customers: Map<
    string,
    { id: string; name: string; metadata: Record<string, string>; card: CardBehavior }
  >
  meters: Map<string, Wire>
  products: Map<string, Wire>
  prices: Map<string, Wire>
  endpoints: Map<string, Wire>
  destinations: Map<string, Wire>
  meterEvents: MeterEvent[]
  items: Map<string, InvoiceItem>
  invoices: Map<string, Invoice>
  subscriptions: Map<string, Subscription>
  checkouts: Map<string, Checkout>
  intents: Map<string, Intent>
  refunds: Map<string, { id: string; charge: string; amount: number; status: string }>
  disputes: Map<string, { id: string; intent: string; amount: number; status: string }>
  /** News that went out, oldest first. */
  events: FakeEvent[]
  thinEvents: Map<string, Wire>
  /** Identifiers that it will take and drop later. */
  rejectLater: Set<string>
}

export function createState(nowMs: number): FakeState {
  return {
    nowMs,
    nextId: 1,
    customers: new Map(),
    meters: new Map(),
    products: new Map(),
    prices: new Map(),
    endpoints: new Map(),
    destinations: new Map(),
    meterEvents: [],
    items: new Map(),
    invoices: new Map(),
    subscriptions: new Map(),
    checkouts: new Map(),
    intents: new Map(),
    refunds: new Map(),
    disputes: new Map(),
    events: [],
    thinEvents: new Map(),
    rejectLater: new Set(),
  }
}

export function newId(state: FakeState, prefix: string): string {
  const id = `${prefix}_${state.nextId.toString().padStart(6, '0')}`
  state.nextId += 1
  return id
}

/** News about an object, as a webhook would bring it. It carries a copy that may be old when it arrives. */
export function emit(state: FakeState, type: string, object: Wire): void {
  const id = newId(state, 'evt')
  const created = Math.floor(state.nowMs / 1000)
  const body = JSON.stringify({
    id,
    object: 'event',
    api_version: '2026-10-28.endive',
    created,
    livemode: false,
    pending_webhooks: 1,
    request: null,
    type,
    data: { object },
  })
  state.events.push({ id, type, body })
}

/** An answer that is an error. */
export class FakeError extends Error {
  readonly status: number
  readonly body: Wire
  /** Errors of validation leave no trace under an idempotency key. */
  readonly isKept: boolean
  constructor(status: number, error: Wire, isKept = false) {
    super(String(error.message))
    this.status = status
    this.body = { error }
    this.isKept = isKept
  }
}

export function invalid(message: string, code?: string): FakeError {
  return new FakeError(400, {
    type: 'invalid_request_error',
    message,
    ...(code === undefined ? {} : { code }),
  })
}

export function missing(id: string): FakeError {
  return new FakeError(404, {
    type: 'invalid_request_error',
    code: 'resource_missing',
    message: `No such object: '${id}'`,
  })
}

export function listOf(data: readonly Wire[], url: string): Wire {
  return { object: 'list', url, has_more: false, data }
}

export function seconds(ms: number): number {
  return Math.floor(ms / 1000)
}
