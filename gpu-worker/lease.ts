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
  /** Starts beating for a message that was just received. One at a time: a second call ends the first. */
  hold(receipt: string): Lease
  /** Ends the thread; nothing is held after it. Safe to repeat. */
  close(): Promise<void>
}

/**
 * Keeps received messages hidden from other workers, from a thread of its own that no computing can hold up.
 *
 * A lease is lost with the second failed beat in a row or when the queue says that the delivery is over; it
 * ends at the attempt's deadline, so that a hung job comes to an end. Should the thread itself die, the lease
 * is lost and the next one gets a new thread.
 */
export function startLeaseKeeper(data: LeaseThreadData): LeaseKeeper {
  let current: { receipt: string; controller: AbortController } | null = null
  let thread: Worker | null = null
  const start = (): Worker => {
    const made = new Worker(new URL('./lease-thread.ts', import.meta.url), { workerData: data })
    const onEnd = () => {
      if (thread !== made) return
      thread = null
      current?.controller.abort('lost')
    }
    made.on('message', ({ receipt, reason }: LeaseReport) => {
      if (current?.receipt === receipt) current.controller.abort(reason)
    })
    made.on('error', onEnd)
    made.on('exit', onEnd)
    return made
  }
  thread = start()
  const send = (command: LeaseCommand) => thread?.postMessage(command)
  return {
    hold(receipt) {
      const own = { receipt, controller: new AbortController() }
      current = own
      thread ??= start()
      send({ type: 'hold', receipt })
      return {
        signal: own.controller.signal,
        renew() {
          if (current === own) send({ type: 'renew', receipt })
        },
        release() {
          if (current !== own) return
          current = null
          send({ type: 'release' })
        },
      }
    },
    async close() {
      current = null
      await thread?.terminate()
    },
  }
}
