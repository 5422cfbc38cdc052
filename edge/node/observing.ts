import type { Reserve } from '../../billing/reserve-queue.ts'
import type { Pool } from '../../db/client.ts'
import type { DispatchQueue } from '../enqueue.ts'
import type { NodeEnv } from '../env.ts'
import type { Metrics } from '../metrics.ts'
import type { Tracing } from './telemetry.ts'
import { startSpan } from './tracing.ts'

export interface Observing {
  /** Absent where nobody reads them. */
  readonly metrics?: Metrics
  close(): void
}

/**
 * Opens the figures of a process where its environment asks for them. A port that cannot be had is logged, and the process
 * goes on without: customers come first.
 *
 * @param isSweeping whether the figures of the books are among them
 */
export async function openMetrics(
  env: Pick<NodeEnv, 'METRICS_PORT' | 'METRICS_HOST'>,
  {
    pool,
    isSweeping,
    log,
  }: {
    pool: Pool
    isSweeping: boolean
    log: (entry: Record<string, unknown>) => void
  },
): Promise<Observing> {
  const { METRICS_PORT: port, METRICS_HOST: host } = env
  if (port === undefined) return { close: () => {} }
  const { createPrometheus } = await import('./prometheus.ts')
  const { serveMetrics } = await import('./metrics-server.ts')
  const { registry, metrics } = createPrometheus(pool, { isSweeping })
  try {
    const server = await serveMetrics(registry, { host, port })
    log({ level: 'info', event: 'metrics', url: server.url })
    return { metrics, close: () => server.close() }
  } catch (error) {
    log({ level: 'error', event: 'metrics_unavailable', error: String(error) })
    return { close: () => {} }
  }
}

/** Sends the spans of a process to the collector that its environment names; null where it names none. */
export async function openTracing(
  { OTEL_EXPORTER_OTLP_ENDPOINT: endpoint }: Pick<NodeEnv, 'OTEL_EXPORTER_OTLP_ENDPOINT'>,
  about: { serviceName: string; log: (entry: Record<string, unknown>) => void },
): Promise<Tracing | null> {
  if (endpoint === undefined) return null
  const { startTracing } = await import('./telemetry.ts')
  return startTracing({ endpoint, ...about })
}

/** The same reservation, timed and as a span of its own. */
export function observeReserve(reserve: Reserve, metrics: Metrics | undefined): Reserve {
  return async (input) => {
    const startedAt = performance.now()
    const span = startSpan('reserve')
    let outcome = 'error'
    try {
      const result = await span.run(() => reserve(input))
      outcome = result.ok ? (result.replayed ? 'replayed' : 'accepted') : result.reason
      return result
    } finally {
      const seconds = (performance.now() - startedAt) / 1_000
      metrics?.reservation({ outcome, seconds })
      span.set({ 'glyphpress.job_id': input.job.id, 'glyphpress.outcome': outcome })
      span.end(outcome === 'error' ? outcome : undefined)
    }
  }
}

/** The same queue, counted; each message has a span of its own, which the worker's follow. */
export function observeQueue(queue: DispatchQueue, metrics: Metrics | undefined): DispatchQueue {
  return {
    async send(dispatch) {
      const span = startSpan('send', { kind: 'producer', parent: dispatch.traceparent ?? null })
      let outcome: 'sent' | 'failed' = 'failed'
      try {
        await queue.send({ ...dispatch, traceparent: span.traceparent ?? null })
        outcome = 'sent'
      } finally {
        metrics?.dispatch(outcome)
        span.set({ 'glyphpress.job_id': dispatch.jobId })
        span.end(outcome === 'failed' ? outcome : undefined)
      }
    },
  }
}
