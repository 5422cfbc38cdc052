import type { EngineFailure } from './engine-error.ts'
import type { ImageRequest, ImageResult, ModelInfo, Progress } from './pipeline/image-request.ts'
import type { LoadProgress } from './pipeline/glm-image.ts'
import type { Backend, Provider } from './pipeline/session.ts'

/** What a child needs to open a model. */
export interface EngineModel {
  modelDir: string
  threads?: number
  provider?: Provider
  backend?: Backend
  /** Pictures that are made at once. */
  slots?: number
  /** See `PipelineOptions`. */
  stepCache?: number
  firstBlockCache?: number
  arWeights?: 'int8'
}

/**
 * Most bytes of condition images in one request. A message is copied whole on both sides, and the pictures of eight
 * good cameras are smaller.
 */
export const MAX_IMAGES_BYTES = 128 * 2 ** 20

/** Parent to child. One `open` first; then any number of `generate`. */
export type EngineCommand =
  | { type: 'open'; model: EngineModel }
  | { type: 'generate'; callId: number; request: ImageRequest }
  | { type: 'cancel'; callId: number }
  | { type: 'close' }

/** Child to parent. Exactly one `result` or `failed` answers each `generate`; at most one `tokens` comes before. */
export type EngineReport =
  | { type: 'loading'; callId: null; progress: LoadProgress }
  | { type: 'ready'; callId: null; info: ModelInfo }
  | { type: 'progress'; callId: number; progress: Progress }
  | { type: 'tokens'; callId: number; tokens: Int32Array }
  | { type: 'result'; callId: number; result: ImageResult }
  | { type: 'failed'; callId: number | null; failure: EngineFailure }
