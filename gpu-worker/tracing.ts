import { SpanKind, SpanStatusCode, context, trace } from '@opentelemetry/api'
import type { Attributes, Span } from '@opentelemetry/api'
import { contextOf } from '../edge/spans.ts'

/**
 * Does a piece of work under a span of its own: spans and log lines in it belong to it, also after it has waited. Until
 * `startTracing` none is recorded.
 *
 * @param options.parent `traceparent` of whoever asked for the work, unchecked; null: it has none; absent: the active span
 * @throws what `work` throws, which the span notes
 */
export async function inSpan<T>(
  name: string,
  work: (describe: (attributes: Attributes) => void) => Promise<T>,
  options: { parent?: string | null } = {},
): Promise<T> {
  const { parent } = options
  const around = parent === undefined ? context.active() : contextOf(parent)
  const kind = parent === undefined ? SpanKind.INTERNAL : SpanKind.CONSUMER
  const span = tracer().startSpan(name, { kind }, around)
  try {
    return await context.with(trace.setSpan(context.active(), span), () =>
      work((attributes) => void span.setAttributes(attributes)),
    )
  } catch (error) {
    fail(span, error)
    throw error
  } finally {
    span.end()
  }
}

/** Says something of the span that is active here, if any. */
export function describeActive(attributes: Attributes): void {
  trace.getActiveSpan()?.setAttributes(attributes)
}

export interface StageSpans {
  note(progress: { stage: string; step: number; total: number }): void
  /** Ends the one that is open. */
  end(error?: unknown): void
}

/**
 * Turns reports of progress into one span for each stage, under the span that is active now. A stage that reports its
 * beginning begins then, as it may have waited for its turn; another begins where the one before ended.
 */
export function followStages(): StageSpans {
  const parent = context.active()
  let open: { stage: string; span: Span } | null = null
  let endedAt = new Date()
  const end = (error?: unknown) => {
    if (open === null) return
    if (error !== undefined) fail(open.span, error)
    endedAt = new Date()
    open.span.end(endedAt)
    open = null
  }
  return {
    note({ stage, step, total }) {
      if (open?.stage !== stage) {
        end()
        const startTime = step === 0 ? new Date() : endedAt
        open = { stage, span: tracer().startSpan(stage, { startTime }, parent) }
      }
      if (step >= total) end()
    },
    end,
  }
}

function tracer() {
  return trace.getTracer('glyphpress')
}

function fail(span: Span, error: unknown): void {
  const message = error instanceof Error ? error.message : String(error)
  span.setStatus({ code: SpanStatusCode.ERROR, message })
}
