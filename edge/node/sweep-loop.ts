import {
  createDeliverySlots,
  deliverDue,
  expireDue,
  foldDue,
  pruneOld,
  redispatchLost,
  removeOldInputs,
  sendDueDispatches,
  stripeDue,
} from '../sweep.ts'
import { publishFleetDue } from '../fleet-metrics.ts'
import type { DeliveryStop, SweepDeps, SweepPart } from '../sweep.ts'

/** Rhythm of each part. What callers wait for runs every second; what only mends, seldom. */
const EVERY_MS: Readonly<Record<SweepPart, number>> = {
  dispatch: 1_000,
  deliver: 1_000,
  expire: 5_000,
  redispatch: 60_000,
  stripe: 15_000,
  prune: 10_000,
  fold: 10_000,
  inputs: 600_000,
  fleet: 30_000,
}

const PARTS: readonly SweepPart[] = [
  'dispatch',
  'deliver',
  'expire',
  'redispatch',
  'prune',
  'stripe',
  'fold',
  'inputs',
  'fleet',
]

export interface SweepLoop {
  /** Sends messages and webhooks now and not at the next beat. Costs nothing when called in bursts. */
  poke(): void
  /**
   * Starts nothing new and waits for what runs. Webhook attempts whose receivers hang are cut after a short
   * while; their leases bring them back in another process.
   *
   * @param cutWebhooks ends the sender's connections
   */
  stop(cutWebhooks: () => Promise<void>): Promise<void>
}

/** A receiver that has not answered by then is one of the slow ones, and waiting for it would hold the stop. */
const CUT_AFTER_MS = 2_000

/**
 * Runs every part of the sweep on its own beat, so that a slow receiver or a dead queue holds up nothing
 * else. A part whose last run is not over is skipped, save deliveries, which share a bounded set of places.
 *
 * @param onError hears of each failed run; the next beat tries again
 */
export function startSweepLoop(
  deps: SweepDeps,
  onError: (part: SweepPart, error: unknown) => void,
): SweepLoop {
  const slots = createDeliverySlots()
  const deliveryStop: DeliveryStop = { isStopping: false, isCut: false }
  const work: Record<SweepPart, () => Promise<number>> = {
    dispatch: () => sendDueDispatches(deps),
    deliver: () => deliverDue(deps, slots, deliveryStop),
    expire: () => expireDue(deps),
    redispatch: () => redispatchLost(deps),
    stripe: () => stripeDue(deps),
    prune: () => pruneOld(deps),
    fold: () => foldDue(deps),
    inputs: () => removeOldInputs(deps),
    fleet: () => publishFleetDue(deps),
  }
  const running = new Set<Promise<void>>()
  const busy = new Set<SweepPart>()
  let isPoked = false
  let isStopped = false

  const run = (part: SweepPart) => {
    if (isStopped) return
    if (part !== 'deliver' && busy.has(part)) return
    busy.add(part)
    const ended = count(deps, part, work[part])
      .then(
        () => {},
        (error: unknown) => onError(part, error),
      )
      .finally(() => {
        busy.delete(part)
        running.delete(ended)
      })
    running.add(ended)
  }
  const timers = PARTS.map((part) => setInterval(() => run(part), EVERY_MS[part]))
  return {
    poke() {
      if (isPoked) return
      isPoked = true
      setImmediate(() => {
        isPoked = false
        run('dispatch')
        run('deliver')
      })
    },
    async stop(cutWebhooks) {
      isStopped = true
      deliveryStop.isStopping = true
      for (const timer of timers) clearInterval(timer)
      const cut = setTimeout(() => {
        deliveryStop.isCut = true
        void cutWebhooks()
      }, CUT_AFTER_MS)
      while (running.size > 0) await Promise.all(running)
      clearTimeout(cut)
    },
  }
}

/** One run of a part, for whoever reads the figures. */
async function count(
  { metrics }: SweepDeps,
  part: SweepPart,
  work: () => Promise<number>,
): Promise<void> {
  const startedAt = performance.now()
  const seconds = () => (performance.now() - startedAt) / 1_000
  try {
    const items = await work()
    metrics?.sweep({ part, items, isFailed: false, seconds: seconds() })
  } catch (error) {
    metrics?.sweep({ part, items: 0, isFailed: true, seconds: seconds() })
    throw error
  }
}
