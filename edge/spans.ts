import {
  ROOT_CONTEXT,
  SpanKind,
  SpanStatusCode,
  TraceFlags,
  context,
  trace,
} from '@opentelemetry/api'
import type { Context, Span } from '@opentelemetry/api'
import { parseTraceparent, toTraceparent } from '../db/trace-context.ts'
import type { TraceContext } from '../db/trace-context.ts'
import type { StartSpan } from './tracing.ts'

const KINDS = {
  server: SpanKind.SERVER,
  client: SpanKind.CLIENT,
  producer: SpanKind.PRODUCER,
  internal: SpanKind.INTERNAL,
} as const

/** Begins a span of OpenTelemetry. Until `startTracing` none is recorded, and the parent's context is handed on. */
export const startSpan: StartSpan = (name, { kind = 'internal', parent } = {}) => {
  const around = parent === undefined ? context.active() : contextOf(parent)
  const span = trace.getTracer('glyphpress').startSpan(name, { kind: KINDS[kind] }, around)
  const own = readContext(span)
  return {
    traceparent: own && toTraceparent(own),
    traceId: own?.traceId,
    run: (work) => context.with(trace.setSpan(context.active(), span), work),
    set: (attributes) => void span.setAttributes(attributes),
    rename: (other) => void span.updateName(other),
    end(failure) {
      if (failure !== undefined) span.setStatus({ code: SpanStatusCode.ERROR, message: failure })
      span.end()
    },
  }
}

/** For a log line: the trace that is active here, if any. */
export function traceFields(): { trace_id?: string } {
  const span = trace.getActiveSpan()
  const own = span && readContext(span)
  return own === undefined ? {} : { trace_id: own.traceId }
}

/** @param parent `traceparent` of whoever asked for the work, unchecked; null: it has none */
export function contextOf(parent: string | null): Context {
  const known = parseTraceparent(parent)
  if (known === null) return ROOT_CONTEXT
  const { traceId, spanId, isSampled } = known
  const traceFlags = isSampled ? TraceFlags.SAMPLED : TraceFlags.NONE
  return trace.setSpanContext(ROOT_CONTEXT, { traceId, spanId, traceFlags, isRemote: true })
}

function readContext(span: Span): TraceContext | undefined {
  const own = span.spanContext()
  if (!trace.isSpanContextValid(own)) return undefined
  const { traceId, spanId, traceFlags } = own
  return { traceId, spanId, isSampled: (traceFlags & TraceFlags.SAMPLED) !== 0 }
}
