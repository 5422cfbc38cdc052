import { createServer } from 'node:http'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Stripe } from 'stripe'
import { catalogueRoutes } from './catalogue.ts'
import { invoiceRoutes } from './invoicing.ts'
import { meteringRoutes } from './metering.ts'
import { paymentRoutes } from './payments.ts'
import { createState, FakeError } from './state.ts'
import type { FakeEvent, FakeState, Wire } from './state.ts'

export type Params = Record<string, unknown>
export type Route = [
  method: 'GET' | 'POST',
  path: string,
  answer: (state: FakeState, params: Params, ids: string[]) => Wire,
]

/** What happens to a call besides being answered. */
export type Fault =
  | 'none'
  /** The connection breaks; nothing was done. */
  | 'lost'
  /** The connection breaks after it was done. */
  | 'lost-answer'
  | '429'
  /** A server's error, kept under the idempotency key. */
  | '500'
  | '500-after'

export interface FakeCall {
  method: string
  path: string
  params: Params
  key: string | null
  status: number
}

export interface FakeStripe {
  readonly url: string
  readonly state: FakeState
  /** What became of every call, oldest first. */
  readonly calls: FakeCall[]
  /** Decides what befalls each call; nothing does at first. */
  fault: (call: { method: string; path: string; params: Params }) => Fault
  /** Calls of one customer to one meter that ran at once, which Stripe forbids. */
  readonly overlaps: string[]
  readonly secret: string
  advance(ms: number): void
  /** Signs news as Stripe does, at the machine's own time: the SDK's check looks at that. */
  sign(event: FakeEvent): Promise<string>
  close(): Promise<void>
}

const ROUTES: Route[] = [...catalogueRoutes, ...invoiceRoutes, ...meteringRoutes, ...paymentRoutes]
const KEY_LIFE_MS = 24 * 3_600_000

/** A server that speaks Stripe's protocol and keeps state, with a clock of its own. */
export async function startFakeStripe(nowMs: number): Promise<FakeStripe> {
  const state = createState(nowMs)
  const kept = new Map<string, { hash: string; status: number; body: string; atMs: number }>()
  const busyKeys = new Set<string>()
  const busyCustomers = new Set<string>()
  const fake: FakeStripe = {
    url: '',
    state,
    calls: [],
    overlaps: [],
    fault: () => 'none',
    secret: 'whsec_fake',
    advance: (ms) => void (state.nowMs += ms),
    sign: (event) =>
      new Stripe('sk_test_fake').webhooks.generateTestHeaderStringAsync({
        payload: event.body,
        secret: fake.secret,
      }),
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }

  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? '/', 'http://fake')
    const text = await readBody(request)
    const isJson = (request.headers['content-type'] ?? '').includes('json')
    const params = isJson
      ? (JSON.parse(text || '{}') as Params)
      : parseForm(text || url.search.slice(1))
    const method = request.method === 'POST' ? 'POST' : 'GET'
    const key = method === 'POST' ? header(request, 'idempotency-key') : null
    const call = { method, path: url.pathname, params, key, status: 0 }
    fake.calls.push(call)
    const fault = fake.fault(call)
    if (fault === 'lost') return void request.socket.destroy()
    const outcome = await run(call, text, fault)
    call.status = outcome.status
    if (fault === 'lost-answer') return void request.socket.destroy()
    response.writeHead(outcome.status, {
      'content-type': 'application/json',
      'request-id': `req_${fake.calls.length}`,
      ...(outcome.isReplay ? { 'idempotent-replayed': 'true' } : {}),
    })
    response.end(outcome.body)
  }

  async function run(call: FakeCall, text: string, fault: Fault) {
    if (fault === '429')
      return refusal(429, {
        type: 'invalid_request_error',
        code: 'rate_limit',
        message: 'Too fast.',
      })
    const hash = `${call.method} ${call.path} ${text}`
    const known = call.key === null ? undefined : kept.get(call.key)
    if (known && known.atMs > state.nowMs - KEY_LIFE_MS) {
      if (known.hash === hash) return { status: known.status, body: known.body, isReplay: true }
      return refusal(400, {
        type: 'idempotency_error',
        message: 'Keys must be used with the same parameters.',
      })
    }
    if (call.key !== null && busyKeys.has(call.key))
      return refusal(409, {
        type: 'idempotency_error',
        code: 'idempotency_key_in_use',
        message: 'In use.',
      })
    const customer = customerOf(call)
    if (customer !== null && busyCustomers.has(customer)) {
      fake.overlaps.push(customer)
      return refusal(429, {
        type: 'invalid_request_error',
        code: 'lock_timeout',
        message: 'One call at a time.',
      })
    }
    if (call.key !== null) busyKeys.add(call.key)
    if (customer !== null) busyCustomers.add(customer)
    try {
      // Calls that are sent at once meet here.
      await new Promise((resolve) => setTimeout(resolve, 1))
      const outcome = execute(call, fault)
      if (call.key !== null && outcome.isKept) {
        kept.set(call.key, { hash, status: outcome.status, body: outcome.body, atMs: state.nowMs })
      }
      return { ...outcome, isReplay: false }
    } finally {
      if (call.key !== null) busyKeys.delete(call.key)
      if (customer !== null) busyCustomers.delete(customer)
    }
  }

  function execute(
    call: FakeCall,
    fault: Fault,
  ): { status: number; body: string; isKept: boolean } {
    const broken = { error: { type: 'api_error', message: 'Something broke.' } }
    if (fault === '500') return { status: 500, body: JSON.stringify(broken), isKept: true }
    try {
      const body = JSON.stringify(dispatch(state, call))
      if (fault === '500-after') return { status: 500, body: JSON.stringify(broken), isKept: true }
      return { status: 200, body, isKept: true }
    } catch (error) {
      if (!(error instanceof FakeError)) throw error
      return { status: error.status, body: JSON.stringify(error.body), isKept: error.isKept }
    }
  }

  const server = createServer((request, response) => {
    answer(request, response).catch((error: unknown) => {
      response.writeHead(599, { 'content-type': 'application/json' })
      response.end(JSON.stringify({ error: { type: 'fake_bug', message: String(error) } }))
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  return Object.assign(fake, { url })
}

function dispatch(state: FakeState, call: FakeCall): Wire {
  for (const [method, path, handle] of ROUTES) {
    if (method !== call.method) continue
    const pattern = new RegExp(`^${path.replaceAll(/:id/g, '([^/]+)')}$`)
    const match = pattern.exec(call.path)
    if (match) return handle(state, call.params, match.slice(1))
  }
  throw new FakeError(404, {
    type: 'invalid_request_error',
    message: `Unrecognized request URL (${call.method}: ${call.path})`,
  })
}

function refusal(status: number, error: Wire) {
  return { status, body: JSON.stringify({ error }), isReplay: false }
}

function customerOf(call: FakeCall): string | null {
  if (call.path !== '/v1/billing/meter_events') return null
  return String((call.params.payload as Record<string, string> | undefined)?.stripe_customer_id)
}

function header(request: IncomingMessage, name: string): string | null {
  const value = request.headers[name]
  return typeof value === 'string' ? value : null
}

async function readBody(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks).toString()
}

/** `a[b]=1&c[0]=2` as an object. */
export function parseForm(text: string): Params {
  const root: Params = {}
  for (const [name, value] of new URLSearchParams(text)) {
    const path = name.split(/[[\]]+/).filter((part) => part !== '')
    let place: Params = root
    for (const part of path.slice(0, -1)) place = (place[part] ??= {}) as Params
    place[path.at(-1) ?? ''] = value
  }
  return toLists(root) as Params
}

function toLists(value: unknown): unknown {
  if (typeof value !== 'object' || value === null) return value
  const entries = Object.entries(value).map(([name, inner]) => [name, toLists(inner)] as const)
  const isList = entries.length > 0 && entries.every(([name], index) => name === String(index))
  return isList ? entries.map(([, inner]) => inner) : Object.fromEntries(entries)
}
