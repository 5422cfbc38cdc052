import type { Pool } from '../../db/client.ts'
import type { NodeEnv } from '../env.ts'
import { openFigures } from './exporting.ts'

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
