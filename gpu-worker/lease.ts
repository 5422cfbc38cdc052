import { Worker } from 'node:worker_threads'
import type { LeaseCommand, LeaseReport, LeaseThreadData } from './lease-thread.ts'

export interface Lease {
  /** Aborted, with the reason `lost` or `deadline`, when the message is no longer kept hidden. */
  readonly signal: AbortSignal
  /** Ends the beats; the message stays hidden until its last extension runs out. Safe to repeat. */
  release(): void
}

export interface LeaseKeeper {
  /** Starts beating for a message that was just received. One at a time: a second call ends the first. */
  hold(receipt: string): Lease
  /** Ends the thread. Safe to repeat. */
  close(): Promise<void>
}

/**
 * Keeps received messages hidden from other workers, from a thread of its own that no computing can hold up.
 *
 * A lease is lost with the second failed beat in a row or when the queue says that the delivery is over; it
 * ends at the attempt's deadline, so that a hung job comes to an end. Should the thread itself die, the lease
 * is lost.
 */
export function startLeaseKeeper(data: LeaseThreadData): LeaseKeeper {
  const thread = new Worker(new URL('./lease-thread.ts', import.meta.url), { workerData: data })
  let current: { receipt: string; controller: AbortController } | null = null
  thread.on('message', ({ receipt, reason }: LeaseReport) => {
    if (current?.receipt === receipt) current.controller.abort(reason)
  })
  thread.on('error', () => current?.controller.abort('lost'))
  thread.on('exit', () => current?.controller.abort('lost'))
  const send = (command: LeaseCommand) => thread.postMessage(command)
  return {
    hold(receipt) {
      const own = { receipt, controller: new AbortController() }
      current = own
      send({ type: 'hold', receipt })
      return {
        signal: own.controller.signal,
        release() {
          if (current !== own) return
          current = null
          send({ type: 'release' })
        },
      }
    },
    async close() {
      current = null
      await thread.terminate()
    },
  }
}
