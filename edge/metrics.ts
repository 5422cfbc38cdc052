import type { ApiError, ErrorName } from './errors.ts'

/**
 * What the gateway and its sweep count, where somebody reads it. Every word that is handed over is of a small fixed set:
 * no organisation, key, job or address is one.
 */
export interface Metrics {
  /** One answered call; `route` as the document writes its path. */
  request(call: { method: string; route: string; status: number; seconds: number }): void
  /** One call that was refused. */
  refusal(refusal: { reason: ErrorName; scope: string }): void
  /** One call of the reservation; the outcome is a refusal's reason, or what became of it. */
  reservation(reservation: { outcome: string; seconds: number }): void
  /** One message for the queue. */
  dispatch(outcome: 'sent' | 'failed'): void
  /** One attempt at a webhook. `answer`: the status's class, or why there was no answer. */
  delivery(attempt: { outcome: string; answer: string; attempt: number; seconds: number }): void
  /** One run of a part of the sweep. */
  sweep(run: { part: string; items: number; isFailed: boolean; seconds: number }): void
}

/** Whose limit refused a call; '' where that is no question. */
export function scopeOf({ kind, details: { data } }: ApiError): string {
  if (data?.scope !== undefined) return data.scope
  if (kind !== 'rate_limited') return ''
  if (data === undefined) return 'overload'
  return data.limit === undefined ? 'address' : 'key'
}
