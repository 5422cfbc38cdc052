import { openCheckpoint } from '../model/checkpoint.ts'
import type { Checkpoint } from '../model/checkpoint.ts'
import { canEdit } from '../model/editing.ts'
import { requireCardMemory } from '../model/card-memory.ts'
import { requireMemory } from '../model/memory.ts'
import { openQuantised } from '../model/quantised.ts'
import { readSize } from '../model/serving.ts'
import { warmFiles } from '../model/warm-read.ts'
import type { StageOptions } from './glyph-encoder.ts'
import type { GenerateHooks, ImageRequest, ImageResult, ModelInfo } from './image-request.ts'
import { openPainterStage } from './painter-stage.ts'
import type { PainterStage } from './painter-stage.ts'
import { planRequest } from './plan-request.ts'
import type { PlannedRequest } from './plan-request.ts'
import { requireProvider } from './session.ts'
import type { Backend, Provider } from './session.ts'
import { roundMs } from './stage.ts'
import { countCells, fitTokens, planWrittenGrids } from './visual-tokens.ts'
import { openWriterStage } from './writer-stage.ts'
import type { WriterStage } from './writer-stage.ts'

export interface Pipeline {
  readonly info: ModelInfo
  /**
   * Makes one picture; calls may overlap. Same request, checkpoint, machine and batch: same bytes, whatever else is made
   * at the same time.
   *
   * @throws EngineError `invalid_request` naming the field; `canceled` after an abort; `engine_failed` when a stage
   *   gives numbers that are not finite
   */
  generate(request: ImageRequest, hooks: GenerateHooks): Promise<ImageResult>
  close(): Promise<void>
}

export interface PipelineOptions {
  threads?: number
  provider?: Provider
  backend?: Backend
  /** Pictures whose layout is written at once; see `openWriterStage`. */
  batch?: number
  /** See `WriterOptions`. */
  arWeights?: 'int8'
  /** Leaves steps out, which changes pictures; see `createStepCache`. */
  stepCache?: number
  /** Leaves blocks of steps out, which changes pictures; see `openSplitBlocks`. */
  firstBlockCache?: number
}

export interface Stages {
  writer: WriterStage
  painter: PainterStage
}

/** Opens both halves of the model, in whatever thread. */
export type OpenStages = (checkpoint: Checkpoint, options: PipelineOptions) => Promise<Stages>

export interface LoadProgress {
  /** In this order; only a card is warmed. */
  part: 'read' | 'open' | 'warm'
  /** Bytes of `read`; of the others 0 of 1. */
  done: number
  total: number
}

/**
 * Opens a checkpoint folder for generation. Memory is asked for first, then the weights are read, then the graphs are
 * opened; on a card a first picture is made, because kernels are chosen and loaded at their first use.
 *
 * @param openStages without it both halves are opened in this thread; each run of a graph then blocks its event loop
 * @throws CheckpointError naming the file and what is wrong with it, or the memory that is missing
 * @throws EngineError `provider_unavailable`
 */
export async function openPipeline(
  modelDir: string,
  options: PipelineOptions & { onLoading?: (progress: LoadProgress) => void } = {},
  openStages: OpenStages = openStagesHere,
): Promise<Pipeline> {
  const { onLoading = () => {}, ...stageOptions } = options
  const isCard = options.provider === 'cuda'
  await requireProvider(options)
  const checkpoint = await openCheckpoint(modelDir)
  const quantised = options.arWeights === 'int8' ? await openQuantised(checkpoint) : undefined
  const weights = quantised ? { quantised } : {}
  await (isCard ? requireCardMemory(checkpoint, weights) : requireMemory(checkpoint, weights))
  await warmFiles(checkpoint, (done, total) => onLoading({ part: 'read', done, total }), weights)
  onLoading({ part: 'open', done: 0, total: 1 })
  const stages = await openStages(checkpoint, stageOptions)
  const { serving } = checkpoint
  const info: ModelInfo = {
    model: serving.model,
    notice: serving.notice,
    size: serving.size,
    steps: serving.steps,
    guidanceScale: serving.guidanceScale,
    images: (await canEdit(checkpoint)) ? serving.images : null,
    weightsHash: await checkpoint.hash(),
    provider: options.provider ?? 'cpu',
    ...(options.stepCache && { stepCache: options.stepCache }),
    ...(options.firstBlockCache && { firstBlockCache: options.firstBlockCache }),
    ...(options.arWeights && { arWeights: options.arWeights }),
  }
  if (isCard) {
    onLoading({ part: 'warm', done: 0, total: 1 })
    await drawFirst(checkpoint, stages)
  }
  return {
    info,
    generate: async (request, hooks) =>
      generate(checkpoint, stages, await planRequest(checkpoint, request), hooks),
    async close() {
      await stages.writer.close()
      await stages.painter.close()
    },
  }
}

const openStagesHere: OpenStages = async (checkpoint, options) => ({
  writer: await openHalf.writer(checkpoint, options),
  painter: await openHalf.painter(checkpoint, options),
})

/** How each half is opened. */
export const openHalf = {
  writer: (checkpoint: Checkpoint, options: PipelineOptions): Promise<WriterStage> =>
    openWriterStage(checkpoint, {
      ...toStageOptions(options),
      batch: options.batch ?? 1,
      ...(options.arWeights && { arWeights: options.arWeights }),
    }),
  painter: (checkpoint: Checkpoint, options: PipelineOptions): Promise<PainterStage> =>
    openPainterStage(checkpoint, {
      ...toStageOptions(options),
      stepCache: options.stepCache ?? 0,
      firstBlockCache: options.firstBlockCache ?? 0,
    }),
}

/** The processor has no bfloat16 kernels for most operators; the card has, and float32 would double its memory. */
function toStageOptions({ threads, provider, backend }: PipelineOptions): StageOptions {
  return {
    compute: provider === 'cuda' ? 'bfloat16' : 'float32',
    ...(threads !== undefined && { threads }),
    ...(provider !== undefined && { provider }),
    ...(backend !== undefined && { backend }),
  }
}

/** A picture that nobody sees, of one step. */
async function drawFirst(checkpoint: Checkpoint, stages: Stages): Promise<void> {
  const size = readSize(checkpoint.serving.size.default)
  const request = { prompt: "A sign 'OPEN'", ...size, seed: 0, steps: 1, format: 'png' } as const
  await generate(checkpoint, stages, await planRequest(checkpoint, request), {})
}

async function generate(
  checkpoint: Checkpoint,
  stages: Stages,
  { request: { images: _images, tokens: known, ...request }, sources }: PlannedRequest,
  hooks: GenerateHooks,
): Promise<ImageResult> {
  const { width, height, seed, steps, guidanceScale } = request
  const { cellPixels, autoregressive } = checkpoint
  const grids = planWrittenGrids({ width, height, cellPixels }, sources)
  const tokens = known && fitTokens(known, grids.large, autoregressive) ? known : null
  const written =
    tokens && sources.length === 0
      ? { tokens, codes: [], timingsMs: {} }
      : await stages.writer.run({ request, sources, tokens }, hooks)
  if (!tokens) hooks.onTokens?.(written.tokens)
  const coded = sources.flatMap((source, index) => {
    const codes = written.codes[index]
    return codes ? { ...source, ...codes } : []
  })
  const painted = await stages.painter.run(
    { request, tokens: written.tokens, sources: coded },
    hooks,
  )
  const timingsMs = { ...written.timingsMs, ...painted.timingsMs }
  const total = Object.values(timingsMs).reduce((sum, durationMs) => sum + durationMs, 0)
  return {
    ...painted,
    width,
    height,
    seed,
    steps,
    guidanceScale,
    tokenCount: countCells(grids.preview) + countCells(grids.large),
    timingsMs: { ...timingsMs, total: roundMs(total) },
  }
}
