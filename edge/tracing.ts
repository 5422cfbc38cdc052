import { parseTraceparent, toTraceparent } from '../db/trace-context.ts'

/** A piece of work as a trace shows it. */
export interface TracedSpan {
  /** What is to be handed on to those who do a part of the work; undefined where there is no trace. */
  readonly traceparent: string | undefined
  readonly traceId: string | undefined
  /** Spans and log lines of `work` belong to this one, also after it has waited for something. */
  run<T>(work: () => T): T
  set(attributes: Record<string, string | number | boolean>): void
  rename(name: string): void
  /** @param failure in few words, where the work failed */
  end(failure?: string): void
}

export interface SpanOptions {
  kind?: 'server' | 'client' | 'producer' | 'internal'
  /** `traceparent` of whoever asked for the work, unchecked; null: it has none; absent: the span that is active. */
  parent?: string | null
}

/** Begins a span. */
export type StartSpan = (name: string, options?: SpanOptions) => TracedSpan

/** Where nobody collects spans: none is made, and the context of the parent is handed on as it came. */
export const passTraceOn: StartSpan = (_name, { parent } = {}) => {
  const known = parseTraceparent(parent)
  return {
    traceparent: known === null ? undefined : toTraceparent(known),
    traceId: known?.traceId,
    run: (work) => work(),
    set: () => {},
    rename: () => {},
    end: () => {},
  }
}
