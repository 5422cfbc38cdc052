import type { Reserve } from '../../billing/reserve-queue.ts'
import type { Pool } from '../../db/client.ts'
import type { DispatchQueue } from '../enqueue.ts'
import type { NodeEnv } from '../env.ts'
import type { Metrics } from '../metrics.ts'
import { openFigures } from './exporting.ts'
import { startSpan } from './tracing.ts'

/**
 * Opens the figures of a process where its environment asks for them, as `openFigures` says.
 *
 * @param isSweeping whether the figures of the books are among them
 */
export function openMetrics(
  env: Pick<NodeEnv, 'METRICS_PORT' | 'METRICS_HOST'>,
  {
    pool,
    isSweeping,
    log,
  }: {
    pool: Pool
    isSweeping: boolean
    log: (entry: Record<string, unknown>) => void
  },
) {
  const create = async () =>
    (await import('./prometheus.ts')).createPrometheus(pool, { isSweeping })
  return openFigures(env, { create, log })
}

/** The same reservation, timed and as a span of its own. */
export function observeReserve(reserve: Reserve, metrics: Metrics | undefined): Reserve {
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
export function observeQueue(queue: DispatchQueue, metrics: Metrics | undefined): DispatchQueue {
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
