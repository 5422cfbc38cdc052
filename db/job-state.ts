/** The life of a job. */
export type JobState =
  'accepted' | 'queued' | 'running' | 'succeeded' | 'failed' | 'canceled' | 'expired'

/**
 * Which state follows which, and who may make the change. A terminal state never leaves.
 * `running -> queued` is a job handed back: by a worker that stops, or after a failure that may pass.
 */
export const TRANSITIONS: Readonly<Record<JobState, readonly JobState[]>> = {
  accepted: ['queued', 'running', 'canceled', 'failed', 'expired'],
  queued: ['running', 'canceled', 'failed', 'expired'],
  running: ['queued', 'running', 'succeeded', 'failed', 'canceled', 'expired'],
  succeeded: [],
  failed: [],
  canceled: [],
  expired: [],
}

/** How long a job may live, by priority: unfinished by then it is expired and costs nothing. */
export const JOB_DEADLINE_SECONDS = { standard: 3_600, batch: 86_400 } as const

export type TerminalState = 'succeeded' | 'failed' | 'canceled' | 'expired'

/** Whether nothing can happen to the job any more. */
export function isTerminal(state: JobState): state is TerminalState {
  return TRANSITIONS[state].length === 0
}

/** Whether `to` may follow `from`. */
export function canTransition(from: JobState, to: JobState): boolean {
  return TRANSITIONS[from].includes(to)
}
