/** `traceparent` of W3C Trace Context, level 1: version, trace id, parent span id, flags. */
export const TRACEPARENT_CHARACTERS = 55

const FORM = /^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$/
const NO_TRACE = '0'.repeat(32)
const NO_SPAN = '0'.repeat(16)

export interface TraceContext {
  /** 32 and 16 lower-case hexadecimal digits, neither all zero. */
  traceId: string
  spanId: string
  /** The caller keeps its own spans of this trace, and would have others do the same. */
  isSampled: boolean
}

/**
 * Reads a `traceparent` from outside. One of a later version is read as far as this one knows it.
 *
 * @returns null for anything that is not one; the trace then begins here
 * @source https://www.w3.org/TR/trace-context/ section 3.2
 */
export function parseTraceparent(text: string | null | undefined): TraceContext | null {
  const [, version = '', traceId = '', spanId = '', flags = '', rest] = FORM.exec(text ?? '') ?? []
  if (version === '' || version === 'ff' || traceId === NO_TRACE || spanId === NO_SPAN) return null
  if (version === '00' && rest !== undefined) return null
  return { traceId, spanId, isSampled: (Number.parseInt(flags, 16) & 1) === 1 }
}

/** The header of version 00, of `TRACEPARENT_CHARACTERS`. */
export function toTraceparent({ traceId, spanId, isSampled }: TraceContext): string {
  return `00-${traceId}-${spanId}-${isSampled ? '01' : '00'}`
}
