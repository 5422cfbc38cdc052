import { parentPort, workerData } from 'node:worker_threads'
import { isDeliveryLost, openQueue } from './sqs.ts'
import type { QueueSettings } from './sqs.ts'

/** Main thread to this one. A `hold` ends the one before it; a `renew` starts its time anew. */
export type LeaseCommand = { type: 'hold' | 'renew'; receipt: string } | { type: 'release' }

/** This thread to the main one; at most one per hold, and no beat follows it. */
export interface LeaseReport {
  receipt: string
  reason: 'lost' | 'deadline'
}

export interface LeaseThreadData {
  queue: QueueSettings
  times: LeaseTimes
}

export interface LeaseTimes {
  /** What each beat extends the message by. */
  visibilitySeconds: number
  beatSeconds: number
  /** So long after the last sign of success no beat is made any more. */
  attemptSeconds: number
}

/** Three beats fit in a message's visibility; with two missed there is just time to stop. */
const MAX_FAILED_BEATS = 2

if (parentPort) serve(parentPort, workerData as LeaseThreadData)

function serve(port: NonNullable<typeof parentPort>, { queue: settings, times }: LeaseThreadData) {
  const queue = openQueue(settings)
  let receipt: string | null = null
  let timer: NodeJS.Timeout | undefined
  let heldSince = 0
  let failedBeats = 0

  const end = (reason: LeaseReport['reason']) => {
    if (receipt !== null) port.postMessage({ receipt, reason } satisfies LeaseReport)
    receipt = null
    clearTimeout(timer)
  }
  const plan = () => {
    timer = setTimeout(() => void beat(), times.beatSeconds * 1_000)
  }
  const beat = async () => {
    const own = receipt
    if (own === null) return
    if (performance.now() - heldSince >= times.attemptSeconds * 1_000) return end('deadline')
    const error = await queue.extend(own, times.visibilitySeconds).then(
      () => null,
      (failure: unknown) => failure,
    )
    // The answer to a beat of an earlier hold says nothing about this one.
    if (receipt !== own) return
    failedBeats = error === null ? 0 : failedBeats + 1
    if (isDeliveryLost(error) || failedBeats >= MAX_FAILED_BEATS) return end('lost')
    plan()
  }
  port.on('message', (command: LeaseCommand) => {
    if (command.type === 'renew') {
      if (command.receipt === receipt) heldSince = performance.now()
      return
    }
    clearTimeout(timer)
    receipt = command.type === 'hold' ? command.receipt : null
    heldSince = performance.now()
    failedBeats = 0
    if (receipt !== null) plan()
  })
}
