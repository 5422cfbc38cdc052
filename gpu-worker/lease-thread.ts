import { parentPort, workerData } from 'node:worker_threads'
import { isDeliveryLost, openQueue } from './sqs.ts'
import type { QueueSettings } from './sqs.ts'

/** Main thread to this one. Any number are held at once; a `renew` starts the time of one anew. */
export interface LeaseCommand {
  type: 'hold' | 'renew' | 'release'
  receipt: string
}

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

interface Hold {
  receipt: string
  since: number
  failedBeats: number
  timer: NodeJS.Timeout | undefined
}

function serve(port: NonNullable<typeof parentPort>, { queue: settings, times }: LeaseThreadData) {
  const queue = openQueue(settings)
  const holds = new Map<string, Hold>()

  const drop = (hold: Hold) => {
    clearTimeout(hold.timer)
    if (holds.get(hold.receipt) === hold) holds.delete(hold.receipt)
  }
  const end = (hold: Hold, reason: LeaseReport['reason']) => {
    drop(hold)
    port.postMessage({ receipt: hold.receipt, reason } satisfies LeaseReport)
  }
  const plan = (hold: Hold) => {
    hold.timer = setTimeout(() => void beat(hold), times.beatSeconds * 1_000)
  }
  const beat = async (hold: Hold) => {
    const { receipt, since } = hold
    if (performance.now() - since >= times.attemptSeconds * 1_000) return end(hold, 'deadline')
    const error = await queue.extend(receipt, times.visibilitySeconds).then(
      () => null,
      (failure: unknown) => failure,
    )
    // The answer to a beat of an earlier hold says nothing about one that is held.
    if (holds.get(receipt) !== hold) return
    hold.failedBeats = error === null ? 0 : hold.failedBeats + 1
    if (isDeliveryLost(error) || hold.failedBeats >= MAX_FAILED_BEATS) return end(hold, 'lost')
    plan(hold)
  }
  port.on('message', ({ type, receipt }: LeaseCommand) => {
    const known = holds.get(receipt)
    if (type === 'renew') {
      if (known) known.since = performance.now()
      return
    }
    if (known) drop(known)
    if (type === 'release') return
    const hold: Hold = { receipt, since: performance.now(), failedBeats: 0, timer: undefined }
    holds.set(receipt, hold)
    plan(hold)
  })
}
