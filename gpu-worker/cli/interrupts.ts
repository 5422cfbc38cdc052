import { IS_NPM_SCRIPT } from './env.ts'

/** How soon after npm's end a run notices it. */
const PARENT_CHECK_MS = 1_000

export interface Interrupts {
  /** Aborted when somebody wants this process to end. */
  readonly signal: AbortSignal
  /** Stops listening. */
  end(): void
}

/**
 * Listens for the wish to end: an interrupt, a closed terminal, or the end of the npm that started this process. A
 * SIGTERM to npm ends npm and its shell, and nothing else would tell.
 */
export function watchInterrupts(): Interrupts {
  const controller = new AbortController()
  const onSignal = () => controller.abort()
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const
  // Once: a second interrupt ends the process at once.
  for (const signal of signals) process.once(signal, onSignal)
  const parent = process.ppid
  const checkParent = () => {
    // An orphan has another parent. Started by hand it may be one on purpose, to outlive its terminal.
    if (IS_NPM_SCRIPT && process.ppid !== parent) controller.abort()
  }
  const timer = setInterval(checkParent, PARENT_CHECK_MS).unref()
  return {
    signal: controller.signal,
    end() {
      clearInterval(timer)
      for (const signal of signals) process.off(signal, onSignal)
    },
  }
}
