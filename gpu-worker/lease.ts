import { Worker } from 'node:worker_threads'
import type { LeaseCommand, LeaseReport, LeaseThreadData } from './lease-thread.ts'

export interface Lease {
  /** Aborted, with the reason `lost` or `deadline`, when the message is no longer kept hidden. */
  readonly signal: AbortSignal
  /** Starts the attempt's time anew: something was finished. */
  renew(): void
  /** Ends the beats; the message stays hidden until its last extension runs out. Safe to repeat. */
  release(): void
}

export interface LeaseKeeper {
  /** Starts beating for a message that was just received. Any number are held at once, each for itself. */
  hold(receipt: string): Lease
  /** Ends the thread; nothing is held after it. Safe to repeat. */
  close(): Promise<void>
}

/**
 * Keeps received messages hidden from other workers, from a thread of its own that no computing can hold up.
 *
 * A lease is lost with the second failed beat in a row or when the queue says that the delivery is over; it
 * ends at the attempt's deadline, so that a hung job comes to an end. Should the thread itself die, all leases are
 * lost and the next one gets a new thread.
 */
export function startLeaseKeeper(data: LeaseThreadData): LeaseKeeper {
  const held = new Map<string, AbortController>()
  let thread: Worker | null = null
  const start = (): Worker => {
    const made = new Worker(new URL('./lease-thread.ts', import.meta.url), { workerData: data })
    const onEnd = () => {
      if (thread !== made) return
      thread = null
      for (const controller of held.values()) controller.abort('lost')
      held.clear()
    }
    made.on('message', ({ receipt, reason }: LeaseReport) => {
      held.get(receipt)?.abort(reason)
    })
    made.on('error', onEnd)
    made.on('exit', onEnd)
    return made
  }
  thread = start()
  const send = (command: LeaseCommand) => thread?.postMessage(command)
  return {
    hold(receipt) {
      const own = new AbortController()
      held.set(receipt, own)
      thread ??= start()
      send({ type: 'hold', receipt })
      return {
        signal: own.signal,
        renew() {
          if (held.get(receipt) === own) send({ type: 'renew', receipt })
        },
        release() {
          if (held.get(receipt) !== own) return
          held.delete(receipt)
          send({ type: 'release', receipt })
        },
      }
    },
    async close() {
      held.clear()
      await thread?.terminate()
    },
  }
}
