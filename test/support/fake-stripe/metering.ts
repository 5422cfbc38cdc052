import { invalid, listOf, missing, newId, seconds } from './state.ts'
import type { FakeState, Invoice, Wire } from './state.ts'
import type { Params, Route } from './server.ts'

const HOUR_MS = 3_600_000
const DAY_MS = 24 * HOUR_MS

/** Meters: identifiers known for a day, the latest event of an hour counts, errors that come late. */
export const meteringRoutes: Route[] = [
  [
    'POST',
    '/v1/billing/meters',
    (state, params) => {
      const id = newId(state, 'mtr')
      const meter = { id, object: 'billing.meter', status: 'active', livemode: false, ...params }
      state.meters.set(id, meter)
      return meter
    },
  ],
  [
    'GET',
    '/v1/billing/meters',
    (state) => listOf([...state.meters.values()], '/v1/billing/meters'),
  ],
  ['POST', '/v1/billing/meter_events', createEvent],
  [
    'GET',
    '/v1/billing/meters/:id/event_summaries',
    (state, params, [meter = '']) => {
      const customer = String(params.customer)
      const start = Number(params.start_time) * 1000
      const end = Number(params.end_time) * 1000
      if (start % HOUR_MS !== 0 || end % HOUR_MS !== 0) throw invalid('times must align with hours')
      const data: Wire[] = []
      for (let hour = start; hour < end; hour += HOUR_MS) {
        const value = totalOf(state, customer, hour)
        if (value === null) continue
        data.push({
          id: `sum_${customer}_${hour}`,
          object: 'billing.meter_event_summary',
          aggregated_value: Number(value),
          start_time: seconds(hour),
          end_time: seconds(hour + HOUR_MS),
          meter,
          livemode: false,
        })
      }
      return listOf(data, `/v1/billing/meters/${meter}/event_summaries`)
    },
  ],
  [
    'GET',
    '/v2/core/events/:id',
    (state, _, [id = '']) => {
      const event = state.thinEvents.get(id)
      if (!event) throw missing(id)
      return event
    },
  ],
]

function createEvent(state: FakeState, params: Params): Wire {
  const identifier = String(params.identifier)
  const payload = params.payload as Record<string, string>
  const timestampMs = Number(params.timestamp) * 1000
  if (timestampMs < state.nowMs - 35 * DAY_MS)
    throw invalid('timestamp is more than 35 days in the past', 'timestamp_too_far_in_past')
  if (timestampMs > state.nowMs + 5 * 60_000)
    throw invalid('timestamp is more than 5 minutes in the future', 'timestamp_in_future')
  if (!/^\d+$/.test(payload.images ?? '')) throw invalid('value is not a whole number')
  const isKnown = state.meterEvents.some(
    (event) => event.identifier === identifier && event.receivedMs > state.nowMs - DAY_MS,
  )
  if (isKnown) throw invalid(`An event already exists with identifier ${identifier}.`)
  const customer = payload.stripe_customer_id ?? ''
  state.meterEvents.push({
    identifier,
    customer,
    hourMs: Math.floor(timestampMs / HOUR_MS) * HOUR_MS,
    value: BigInt(payload.images ?? '0'),
    receivedMs: state.nowMs,
    isRejected: !state.customers.has(customer) || state.rejectLater.delete(identifier),
    isProcessed: false,
  })
  return {
    object: 'billing.meter_event',
    created: seconds(state.nowMs),
    event_name: params.event_name,
    identifier,
    livemode: false,
    payload,
    timestamp: params.timestamp,
  }
}

/** What the meter holds of a customer's hour: the event that came last. Null when none did. */
export function totalOf(state: FakeState, customer: string, hourMs: number): bigint | null {
  const last = state.meterEvents.findLast(
    (event) =>
      event.customer === customer &&
      event.hourMs === hourMs &&
      event.isProcessed &&
      !event.isRejected,
  )
  return last?.value ?? null
}

/** Works through events that were taken, and reports those that were wrong. */
export function processMeterEvents(state: FakeState): void {
  const fresh = state.meterEvents.filter((event) => !event.isProcessed)
  for (const event of fresh) event.isProcessed = true
  const wrong = fresh.filter((event) => event.isRejected)
  if (wrong.length === 0) return
  const id = newId(state, 'evt_thin')
  const created = new Date(state.nowMs).toISOString()
  const base = { id, object: 'v2.core.event', created, livemode: false }
  const type = 'v1.billing.meter.error_report_triggered'
  const meterId = [...state.meters.keys()][0] ?? 'mtr'
  const related = { id: meterId, type: 'billing.meter', url: `/v1/billing/meters/${meterId}` }
  state.thinEvents.set(id, {
    ...base,
    type,
    related_object: related,
    data: {
      developer_message_summary: `${wrong.length} events were wrong`,
      validation_start: new Date(Math.min(...wrong.map((event) => event.receivedMs))).toISOString(),
      validation_end: created,
      reason: {
        error_count: wrong.length,
        error_types: [
          {
            code: 'meter_event_customer_not_found',
            error_count: wrong.length,
            // Samples are not a full list.
            sample_errors: wrong.slice(0, 1).map((event) => ({
              error_message: 'dropped',
              request: { identifier: event.identifier },
            })),
          },
        ],
      },
    },
  })
  state.events.push({ id, type, body: JSON.stringify({ ...base, type, related_object: related }) })
}

/** Images of a subscription's period, as the meter holds them. */
export function quantityOf(state: FakeState, invoice: Invoice): bigint {
  if (invoice.frozenQuantity !== null) return invoice.frozenQuantity
  if (invoice.subscription === null) return 0n
  let sum = 0n
  for (let hour = invoice.periodStartMs; hour < invoice.periodEndMs; hour += HOUR_MS) {
    sum += totalOf(state, invoice.customer, hour) ?? 0n
  }
  return sum
}
