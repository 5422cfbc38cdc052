import { setImmediate as nextTurn } from 'node:timers/promises'
import { EngineError } from '../engine-error.ts'
import type { Progress } from './image-request.ts'

export interface StageHooks {
  signal?: AbortSignal
  onProgress?: (progress: Progress) => void
}

/**
 * One half of the model, in this thread or in another. Calls may overlap; what they share is the stage's own business,
 * and none fails because of another.
 */
export interface Stage<Input, Output> {
  /** @throws EngineError; `canceled` after an abort */
  run(input: Input, hooks: StageHooks): Promise<Output>
  /** Frees the weights once no call is left. */
  close(): Promise<void>
}

/** Reports, then lets the event loop turn so that a cancel can arrive, then looks for it. */
export async function pause({ signal, onProgress }: StageHooks, progress: Progress): Promise<void> {
  onProgress?.(progress)
  await nextTurn()
  if (signal?.aborted) throw canceledIn(progress.stage, signal)
}

export function canceledIn(stage: Progress['stage'], signal: AbortSignal): EngineError {
  return new EngineError('canceled', `canceled in stage ${stage}`, { cause: signal.reason })
}

/** Measures what comes one after the other; milliseconds to one decimal. */
export function startTimer() {
  const laps: Record<string, number> = {}
  let last = performance.now()
  return {
    lap(stage: string) {
      const now = performance.now()
      laps[stage] = roundMs(now - last)
      last = now
    },
    read: (): Record<string, number> => laps,
  }
}

export function roundMs(durationMs: number): number {
  return Math.round(durationMs * 10) / 10
}
