import { setTimeout as wait } from 'node:timers/promises'
import { parentPort, workerData } from 'node:worker_threads'
import { openMetadata } from './metadata.ts'
import type { Metadata } from './metadata.ts'

/**
 * What may befall the machine. `rebalance`: it is likely to be taken soon. `spot`: it is taken within two minutes.
 * `scale_in`: the scaling group has chosen it, and waits for its leave.
 */
export type Interruption = 'rebalance' | 'spot' | 'scale_in'

export interface InterruptionThreadData {
  endpoint: string
  pollMs: number
}

/** Each is told once. A notice says more than a hint, so that the worst is asked for first. */
const SIGNS: readonly [Interruption, path: string, test: (text: string) => boolean][] = [
  ['spot', 'spot/instance-action', (text) => /"(terminate|stop|hibernate)"/.test(text)],
  ['scale_in', 'autoscaling/target-lifecycle-state', (text) => text.trim() === 'Terminated'],
  ['rebalance', 'events/recommendations/rebalance', (text) => text.includes('noticeTime')],
]

if (parentPort) {
  const port = parentPort
  const { endpoint, pollMs } = workerData as InterruptionThreadData
  void watch(openMetadata(endpoint), pollMs, (event) => port.postMessage(event))
}

async function watch(
  metadata: Metadata,
  pollMs: number,
  tell: (event: Interruption) => void,
): Promise<never> {
  const told = new Set<Interruption>()
  for (;;) {
    for (const [event, path, test] of SIGNS) {
      if (told.has(event)) continue
      // A service that does not answer is asked again; a worker must not die of it.
      const text = await metadata.read(path).catch(() => null)
      if (text === null || !test(text)) continue
      told.add(event)
      tell(event)
    }
    await wait(pollMs)
  }
}
