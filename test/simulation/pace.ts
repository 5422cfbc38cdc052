import { setTimeout as wait } from 'node:timers/promises'

/**
 * Does the work and then rests for at least so long, and for longer than the work took: on a busy machine those who
 * only look must not take the time of those who do something.
 */
export async function pace(restMs: number, work: () => Promise<void>): Promise<void> {
  const startMs = performance.now()
  await work()
  await wait(Math.max(restMs, 3 * (performance.now() - startMs)))
}
