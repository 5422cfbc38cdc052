import { AsyncLocalStorage } from 'node:async_hooks'
import { ROOT_CONTEXT, context, trace } from '@opentelemetry/api'
import type { Context, ContextManager } from '@opentelemetry/api'
import { JsonTraceSerializer } from '@opentelemetry/otlp-transformer'
import { resourceFromAttributes } from '@opentelemetry/resources'
import {
  BasicTracerProvider,
  ParentBasedSampler,
  TraceIdRatioBasedSampler,
} from '@opentelemetry/sdk-trace-base'
import type { ReadableSpan, SpanProcessor } from '@opentelemetry/sdk-trace-base'

export interface Collector {
  /** Base address; `/v1/traces` is added. */
  readonly endpoint: string
  /** Sent with every batch, such as the key of the collector. */
  readonly headers: Readonly<Record<string, string>>
  readonly serviceName: string
  /** Share of the traces that begin here which are kept; a caller's own choice goes first. */
  readonly ratio: number
}

/** Spans of an isolate. */
export interface WorkersTracing {
  /** Sends the spans that have ended; two seconds at most. What fails is logged once a minute and dropped. */
  flush(): Promise<void>
}

const FLUSH_MS = 2_000
/** A call makes a handful, a sweep one for each message and webhook. What is above is dropped. */
const MAX_SPANS = 2_048
/** Between two log lines about a collector that takes nothing. */
const QUIET_MS = 60_000

/**
 * Records the spans of this isolate. They are sent when a call of it is over, since an isolate has no time between two
 * calls: the batches of Node, which leave by a timer, would never go.
 */
export function startWorkersTracing(
  collector: Collector,
  log: (entry: Record<string, unknown>) => void,
): WorkersTracing {
  let ended: ReadableSpan[] = []
  const processor: SpanProcessor = {
    onStart() {},
    onEnd(span) {
      if (ended.length < MAX_SPANS) ended.push(span)
    },
    forceFlush: () => Promise.resolve(),
    shutdown: () => Promise.resolve(),
  }
  const provider = new BasicTracerProvider({
    resource: resourceFromAttributes({ 'service.name': collector.serviceName }),
    sampler: new ParentBasedSampler({ root: new TraceIdRatioBasedSampler(collector.ratio) }),
    spanProcessors: [processor],
  })
  trace.setGlobalTracerProvider(provider)
  context.setGlobalContextManager(new ActiveContext())
  let saidAt = -Infinity
  return {
    async flush() {
      const spans = ended
      ended = []
      if (spans.length === 0) return
      try {
        await post(collector, spans)
      } catch (error) {
        if (Date.now() - saidAt < QUIET_MS) return
        saidAt = Date.now()
        log({ level: 'warn', event: 'spans_not_sent', dropped: spans.length, error: String(error) })
      }
    },
  }
}

/** As the SDK's own for Node, whose form brings thirty kilobytes of what nothing here uses along. */
class ActiveContext implements ContextManager {
  readonly #storage = new AsyncLocalStorage<Context>()

  active(): Context {
    return this.#storage.getStore() ?? ROOT_CONTEXT
  }

  with<Input extends unknown[], Work extends (...input: Input) => ReturnType<Work>>(
    active: Context,
    work: Work,
    that?: ThisParameterType<Work>,
    ...input: Input
  ): ReturnType<Work> {
    return this.#storage.run(active, () => work.apply(that, input))
  }

  bind<Target>(active: Context, target: Target): Target {
    if (typeof target !== 'function') return target
    const bound = (...input: unknown[]): unknown => this.with(active, () => target(...input))
    return bound as Target
  }

  enable(): this {
    return this
  }

  disable(): this {
    return this
  }
}

/** @throws when the collector does not take them in time */
async function post({ endpoint, headers }: Collector, spans: ReadableSpan[]): Promise<void> {
  const response = await fetch(`${endpoint.replace(/\/+$/, '')}/v1/traces`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: JsonTraceSerializer.serializeRequest(spans) ?? null,
    redirect: 'manual',
    signal: AbortSignal.timeout(FLUSH_MS),
  })
  await response.body?.cancel()
  if (!response.ok) throw new Error(`the collector says ${response.status}`)
}
