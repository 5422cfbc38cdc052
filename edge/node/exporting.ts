import type { NodeEnv } from '../env.ts'
import type { MetricsServer, serveMetrics } from './metrics-server.ts'
import type { Tracing } from './telemetry.ts'

/** How any process of ours, the worker too, shows figures and sends spans; what that takes is loaded only where it is asked for. */

type Log = (entry: Record<string, unknown>) => void

export interface Figures<Metrics> {
  /** Absent where nobody reads them. */
  readonly metrics?: Metrics
  close(): void
}

const NO_FIGURES = { close: () => {} }

/**
 * Opens the figures of a process where its environment asks for them. A port that cannot be had is logged, and the process
 * goes on without: customers and jobs come first.
 */
export async function openFigures<Metrics>(
  { METRICS_PORT: port, METRICS_HOST: host }: Pick<NodeEnv, 'METRICS_PORT' | 'METRICS_HOST'>,
  {
    create,
    log,
  }: {
    create: () => Promise<{ registry: Parameters<typeof serveMetrics>[0]; metrics: Metrics }>
    log: Log
  },
): Promise<Figures<Metrics>> {
  if (port === undefined) return NO_FIGURES
  const { registry, metrics } = await create()
  const server = await import('./metrics-server.ts')
  let opened: MetricsServer
  try {
    opened = await server.serveMetrics(registry, { host, port })
  } catch (error) {
    log({ level: 'error', event: 'metrics_unavailable', error: String(error) })
    return NO_FIGURES
  }
  log({ level: 'info', event: 'metrics', url: opened.url })
  return { metrics, close: () => opened.close() }
}

/** Sends the spans of a process to the collector that its environment names; null where it names none. */
export async function openTracing(
  { OTEL_EXPORTER_OTLP_ENDPOINT: endpoint }: Pick<NodeEnv, 'OTEL_EXPORTER_OTLP_ENDPOINT'>,
  about: { serviceName: string; log: Log },
): Promise<Tracing | null> {
  if (endpoint === undefined) return null
  const { startTracing } = await import('./telemetry.ts')
  return startTracing({ endpoint, ...about })
}
