import { Counter, Gauge, Histogram, Registry, collectDefaultMetrics } from 'prom-client'
import type { Pool } from '../../db/client.ts'
import type { Metrics } from '../metrics.ts'
import { watchService } from './service-gauges.ts'

/** Seconds: a look-up takes milliseconds, a call that waits for its pictures up to four minutes. */
const CALL_BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 240]
const RESERVE_BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]
/** An attempt at a webhook ends after 15 seconds. */
const DELIVERY_BUCKETS = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15]
/** There are ten attempts at most. */
const ATTEMPT_BUCKETS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
/** RFC 9110 has these; a caller may send any word. */
const METHODS = new Set(['GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'OPTIONS', 'PATCH'])

export interface PrometheusMetrics {
  readonly registry: Registry
  readonly metrics: Metrics
}

/**
 * The figures of a gateway or sweep process for Prometheus, with those of Node itself. `infra/observe.md` says what each
 * is for.
 *
 * @param options.isSweeping whether this process is the one to ask about the books too
 */
export function createPrometheus(
  pool: Pool,
  { isSweeping }: { isSweeping: boolean },
): PrometheusMetrics {
  const registry = new Registry()
  collectDefaultMetrics({ register: registry })
  watchPool(registry, pool)
  if (isSweeping) watchService(registry, pool)
  return { registry, metrics: { ...countCalls(registry), ...countWork(registry) } }
}

/** The database pool of a process. */
function watchPool(registry: Registry, { use }: Pool): void {
  const registers = [registry]
  const calls: Gauge = new Gauge({
    name: 'glyphpress_database_calls',
    help: 'Statements and transactions that run or wait for a connection',
    registers,
    collect: () => calls.set(use.calls),
  })
  const most = new Gauge({
    name: 'glyphpress_database_connections_max',
    help: 'Connections that this process may open',
    registers,
  })
  most.set(use.maxConnections)
}

function countCalls(registry: Registry): Pick<Metrics, 'request' | 'refusal' | 'reservation'> {
  const registers = [registry]
  const requests = new Counter({
    name: 'glyphpress_http_requests_total',
    help: 'Answered calls',
    labelNames: ['method', 'route', 'status'] as const,
    registers,
  })
  const durations = new Histogram({
    name: 'glyphpress_http_request_duration_seconds',
    help: 'From the request to the begin of the answer',
    labelNames: ['method', 'route'] as const,
    buckets: CALL_BUCKETS,
    registers,
  })
  const refusals = new Counter({
    name: 'glyphpress_refusals_total',
    help: 'Calls that were refused, by the error table and by whose limit it was',
    labelNames: ['reason', 'scope'] as const,
    registers,
  })
  const reservations = new Histogram({
    name: 'glyphpress_reservation_duration_seconds',
    help: 'Reservations of a job with its money, the wait for their turn included',
    labelNames: ['outcome'] as const,
    buckets: RESERVE_BUCKETS,
    registers,
  })
  return {
    request({ method: given, route, status, seconds }) {
      const method = METHODS.has(given) ? given : 'other'
      requests.inc({ method, route, status })
      durations.observe({ method, route }, seconds)
    },
    refusal: (refusal) => refusals.inc(refusal),
    reservation: ({ outcome, seconds }) => reservations.observe({ outcome }, seconds),
  }
}

function countWork(registry: Registry): Pick<Metrics, 'dispatch' | 'delivery' | 'sweep'> {
  const registers = [registry]
  const messages = new Counter({
    name: 'glyphpress_dispatches_total',
    help: 'Messages to the queue',
    labelNames: ['outcome'] as const,
    registers,
  })
  const deliveries = new Counter({
    name: 'glyphpress_webhook_attempts_total',
    help: 'Attempts at webhooks, by what became of the delivery and what was answered',
    labelNames: ['outcome', 'answer'] as const,
    registers,
  })
  const deliveryTimes = new Histogram({
    name: 'glyphpress_webhook_attempt_duration_seconds',
    help: 'From the start of an attempt to its end',
    buckets: DELIVERY_BUCKETS,
    registers,
  })
  const deliveryTries = new Histogram({
    name: 'glyphpress_webhook_delivery_attempts',
    help: 'Attempts that a delivery took until it was over',
    labelNames: ['outcome'] as const,
    buckets: ATTEMPT_BUCKETS,
    registers,
  })
  return {
    dispatch: (outcome) => messages.inc({ outcome }),
    delivery({ outcome, answer, attempt, seconds }) {
      deliveries.inc({ outcome, answer })
      deliveryTimes.observe(seconds)
      if (outcome === 'delivered' || outcome === 'failed') {
        deliveryTries.observe({ outcome }, attempt)
      }
    },
    sweep: countSweep(registry),
  }
}

function countSweep(registry: Registry): Metrics['sweep'] {
  const registers = [registry]
  const labelNames = ['part'] as const
  const runs = new Histogram({
    name: 'glyphpress_sweep_duration_seconds',
    help: 'Runs of each part of the sweep',
    labelNames,
    buckets: RESERVE_BUCKETS,
    registers,
  })
  const failures = new Counter({
    name: 'glyphpress_sweep_failures_total',
    help: 'Runs that ended with an error',
    labelNames,
    registers,
  })
  const items = new Counter({
    name: 'glyphpress_sweep_items_total',
    help: 'What the runs did: messages, attempts at webhooks, expired jobs, removed rows, folded entries',
    labelNames,
    registers,
  })
  const last = new Gauge({
    name: 'glyphpress_sweep_last_success_timestamp_seconds',
    help: 'When a run of the part last ended well',
    labelNames,
    registers,
  })
  return ({ part, items: done, isFailed, seconds }) => {
    runs.observe({ part }, seconds)
    if (isFailed) {
      failures.inc({ part })
      return
    }
    items.inc({ part }, done)
    last.setToCurrentTime({ part })
  }
}
