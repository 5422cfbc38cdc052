import type { EngineFailure } from './engine-error.ts'
import type { PipelineOptions } from './pipeline/glm-image.ts'
import type { Progress } from './pipeline/image-request.ts'

/** What a thread is started with. */
export interface StageThreadData {
  half: 'writer' | 'painter'
  modelDir: string
  options: PipelineOptions
}

/** To the thread. Any number of calls may run. */
export type StageCommand =
  | { type: 'run'; callId: number; input: unknown }
  | { type: 'cancel'; callId: number }
  | { type: 'close' }

/** From the thread. Exactly one `done` or `failed` answers each `run`; `ready` or `failed` without a call comes first. */
export type StageReport =
  | { type: 'ready' }
  | { type: 'progress'; callId: number; progress: Progress }
  | { type: 'done'; callId: number; output: unknown }
  | { type: 'failed'; callId: number | null; failure: EngineFailure }
