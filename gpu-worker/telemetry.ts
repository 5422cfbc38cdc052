import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-http'
import {
  defaultResource,
  detectResources,
  envDetector,
  resourceFromAttributes,
} from '@opentelemetry/resources'
import { BatchSpanProcessor, NodeTracerProvider } from '@opentelemetry/sdk-trace-node'
import type { SpanExporter } from '@opentelemetry/sdk-trace-node'

export interface Tracing {
  /** Sends what is still here, for half a second at most. */
  stop(): Promise<void>
}

/** A stop must not wait for a collector that hangs. */
const STOP_MS = 500
/** Between two log lines about a collector that takes nothing. */
const QUIET_MS = 60_000
/** ExportResultCode.SUCCESS of the SDK's core. */
const SUCCESS = 0

/**
 * Sends this process's spans to a collector, by OTLP over HTTP as JSON. They wait in a bounded queue (2,048) and leave in
 * batches; what does not fit or cannot be sent is dropped, and nothing waits for it. Sampler, headers, attributes and
 * batches follow the standard OTEL_ variables, which the SDK reads by itself.
 *
 * @param input.endpoint base address of the collector; `/v1/traces` is added
 * @param input.serviceName where OTEL_SERVICE_NAME names no other
 */
export function startTracing(input: {
  endpoint: string
  serviceName: string
  log: (entry: Record<string, unknown>) => void
}): Tracing {
  const { endpoint, serviceName, log } = input
  const exporter = new OTLPTraceExporter({ url: `${endpoint.replace(/\/+$/, '')}/v1/traces` })
  const provider = new NodeTracerProvider({
    resource: defaultResource()
      .merge(resourceFromAttributes({ 'service.name': serviceName }))
      .merge(detectResources({ detectors: [envDetector] })),
    spanProcessors: [new BatchSpanProcessor(tellFailures(exporter, log))],
  })
  provider.register()
  return {
    async stop() {
      const late = new Promise<void>((resolve) => setTimeout(resolve, STOP_MS).unref())
      await Promise.race([provider.shutdown().catch(() => {}), late])
    },
  }
}

/** The SDK drops a batch in silence; the operator hears of the first one and then of one a minute. */
function tellFailures(
  exporter: SpanExporter,
  log: (entry: Record<string, unknown>) => void,
): SpanExporter {
  let saidAt = -Infinity
  return {
    export: (spans, done) =>
      exporter.export(spans, (result) => {
        if (result.code !== SUCCESS && performance.now() - saidAt > QUIET_MS) {
          saidAt = performance.now()
          const error = result.error?.message ?? 'no reason was given'
          log({ level: 'warn', event: 'spans_not_sent', dropped: spans.length, error })
        }
        done(result)
      }),
    shutdown: () => exporter.shutdown(),
    forceFlush: () => exporter.forceFlush?.() ?? Promise.resolve(),
  }
}
