import type { Reserve } from '../billing/reserve-queue.ts'
import type { DispatchQueue } from './enqueue.ts'
import type { Metrics } from './metrics.ts'
import type { StartSpan } from './tracing.ts'

export interface Observer {
  readonly startSpan: StartSpan
  /** Absent where nobody reads them. */
  readonly metrics?: Metrics
}

/** The same reservation, timed and as a span of its own. */
export function observeReserve(reserve: Reserve, { startSpan, metrics }: Observer): Reserve {
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
export function observeQueue(
  queue: DispatchQueue,
  { startSpan, metrics }: Observer,
): DispatchQueue {
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
