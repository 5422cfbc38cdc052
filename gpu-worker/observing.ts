import type { Pool } from '../db/client.ts'
import { openFigures } from '../edge/node/exporting.ts'
import type { Log } from './consume.ts'
import type { WorkerEnv } from './env.ts'

/** Opens the figures of a worker where its environment asks for them, as `openFigures` says. */
export function openMetrics(
  env: Pick<WorkerEnv, 'METRICS_PORT' | 'METRICS_HOST'>,
  { log, ...shown }: { pool: Pool; slots: number; busy: () => number; log: Log },
) {
  const create = async () => (await import('./metrics.ts')).createWorkerMetrics(shown)
  return openFigures(env, { create, log })
}
