import { Worker } from 'node:worker_threads'
import type { Interruption, InterruptionThreadData } from './interruption-thread.ts'
import { METADATA_ENDPOINT } from './metadata.ts'
import type { ScalingGroup } from './scaling-group.ts'
import type { RunningWorker } from './worker.ts'

/** As AWS advises for a notice that comes two minutes before the end. */
const POLL_MS = 5_000
/** Of the two minutes, less a poll, a give-back and what the notice lost on its way. */
const SPOT_GRACE_MS = 90_000
/** What the group waits for one that leaves, less a margin; also what a hint is worth waiting for. */
const LEAVE_GRACE_MS = 280_000
const GRACE_MS: Readonly<Record<Interruption, number>> = {
  spot: SPOT_GRACE_MS,
  scale_in: LEAVE_GRACE_MS,
  rebalance: LEAVE_GRACE_MS,
}
/** After so long without a job the group may take this machine; less than the idleness after which it would want to. */
const UNPROTECT_AFTER_MS = 300_000

/**
 * Watches for the machine being taken away, from a thread of its own, and takes the worker out of service in time: what
 * can still be stored is finished, the rest given back at once.
 *
 * @param leave called with the worker stopped; the process should end and not be started again
 * @returns ends the watch
 */
export function attendMachine(input: {
  worker: RunningWorker
  group: ScalingGroup | null
  log: (entry: Record<string, unknown>) => void
  leave: () => void
  endpoint?: string
  pollMs?: number
}): () => Promise<void> {
  const { worker, group, log, endpoint = METADATA_ENDPOINT, pollMs = POLL_MS } = input
  const data: InterruptionThreadData = { endpoint, pollMs }
  const thread = new Worker(new URL('./interruption-thread.ts', import.meta.url), {
    workerData: data,
  })
  let isLeaving = false
  const onEvent = async (event: Interruption) => {
    log({ level: 'warn', event: 'interruption', kind: event, jobs: worker.busy() })
    const outcome = await worker.leave(GRACE_MS[event])
    // A notice may overtake a hint; the first one that is through ends the process.
    if (isLeaving) return
    isLeaving = true
    await worker.stop()
    log({ level: 'info', event: 'left', kind: event, outcome })
    if (event === 'scale_in') await group?.completeLeave()
    input.leave()
  }
  thread.on('message', (event: Interruption) => void onEvent(event))
  thread.on('error', (error) =>
    log({ level: 'error', event: 'watch_failed', error: String(error) }),
  )
  const unprotect = keepProtected(worker, group)
  return async () => {
    unprotect()
    await thread.terminate()
  }
}

/** Protected from being chosen while it works and for some minutes after; not set anew with every job. */
function keepProtected(worker: RunningWorker, group: ScalingGroup | null): () => void {
  if (group === null) return () => {}
  let timer: NodeJS.Timeout | undefined
  let isProtected = true
  const set = (value: boolean) => {
    if (value === isProtected) return
    isProtected = value
    void group.setProtected(value)
  }
  const onIdle = () => {
    timer = setTimeout(() => set(false), UNPROTECT_AFTER_MS)
    timer.unref()
  }
  worker.onBusy((isBusy) => {
    clearTimeout(timer)
    if (isBusy) set(true)
    else onIdle()
  })
  onIdle()
  return () => clearTimeout(timer)
}
