import type { Pool } from '../db/client.ts'
import type { Log } from './consume.ts'
import type { WorkerEnv } from './env.ts'
import type { WorkerMetrics } from './metrics.ts'
import type { Tracing } from './telemetry.ts'

export interface Observing {
  /** Absent where nobody reads them. */
  readonly metrics?: WorkerMetrics
  close(): void
}

/**
 * Opens the figures of a worker where its environment asks for them. A port that cannot be had is logged, and the worker
 * goes on without: jobs come first.
 */
export async function openMetrics(
  { METRICS_PORT: port, METRICS_HOST: host }: Pick<WorkerEnv, 'METRICS_PORT' | 'METRICS_HOST'>,
  { log, ...shown }: { pool: Pool; slots: number; busy: () => number; log: Log },
): Promise<Observing> {
  if (port === undefined) return { close: () => {} }
  const { createWorkerMetrics } = await import('./metrics.ts')
  const { serveMetrics } = await import('./metrics-server.ts')
  const { registry, metrics } = createWorkerMetrics(shown)
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
  { OTEL_EXPORTER_OTLP_ENDPOINT: endpoint }: Pick<WorkerEnv, 'OTEL_EXPORTER_OTLP_ENDPOINT'>,
  about: { serviceName: string; log: Log },
): Promise<Tracing | null> {
  if (endpoint === undefined) return null
  const { startTracing } = await import('./telemetry.ts')
  return startTracing({ endpoint, ...about })
}
