import type { ImageRules, SizeRules } from '../model/serving.ts'
import type { ImageFormat } from './encode.ts'

export interface ImageRequest {
  prompt: string
  /**
   * Condition images as files: PNG, JPEG or WebP, in the order in which the prompt speaks of them. Any makes the request
   * an edit. They are seen as their EXIF data says, on white where they are transparent, and without animation.
   */
  images?: readonly Uint8Array[]
  /** Pixels. Both absent: the size nearest to that of the first image, or what the checkpoint is served with. */
  width?: number
  height?: number
  /** 0 to 2^32 - 1. */
  seed: number
  /** Absent: what the checkpoint is served with. */
  steps?: number
  guidanceScale?: number
  format: ImageFormat
  /**
   * Visual tokens that an earlier call for the same picture gave to `onTokens`: the writer is left out. Tokens that
   * cannot be those of this size are passed over.
   */
  tokens?: Int32Array
}

export interface Progress {
  stage: 'images' | 'tokens' | 'glyph' | 'denoise' | 'decode' | 'encode'
  /**
   * Rises to `total` within a stage; stages come in the order of the type. Only an edit has stage `images`, which is its
   * reading by the writer; that by the denoiser is a part of `glyph`. Known tokens leave out stage `tokens`.
   */
  step: number
  total: number
}

export interface ImageResult {
  bytes: Uint8Array
  contentType: string
  /** Of `bytes`, in hex. */
  sha256: string
  width: number
  height: number
  seed: number
  steps: number
  guidanceScale: number
  /** Visual tokens of the picture, the preview's included; an edit has no preview. */
  tokenCount: number
  /** By stage, and `total`. */
  timingsMs: Record<string, number>
}

export interface ModelInfo {
  model: string
  /** What a reader of the picture must know, or null. */
  notice: string | null
  size: SizeRules
  steps: number
  guidanceScale: number
  /** What an edit may have; null when the checkpoint cannot read images. */
  images: ImageRules | null
  weightsHash: string
  provider: string
  /** The threshold by which steps are left out; absent where none is. */
  stepCache?: number
  /** The threshold by which blocks of steps are left out; absent where none is. */
  firstBlockCache?: number
  /** How the writer's matrices are kept; absent: as they are stored. */
  arWeights?: 'int8'
}

export interface GenerateHooks {
  signal?: AbortSignal
  onProgress?: (progress: Progress) => void
  /** Told once of the visual tokens of the picture when they were written by this call. */
  onTokens?: (tokens: Int32Array) => void
}
