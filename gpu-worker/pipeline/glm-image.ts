import { setImmediate as nextTurn } from 'node:timers/promises'

import { EngineError } from '../engine-error.ts'
import { openCheckpoint } from '../model/checkpoint.ts'
import type { Checkpoint } from '../model/checkpoint.ts'
import { requireMemory } from '../model/memory.ts'
import { canEdit } from '../model/editing.ts'
import type { CheckedRequest } from './check-request.ts'
import { openPixelDecoder } from './decode.ts'
import { openDenoiser } from './denoise.ts'
import { fromPatches, toPatches } from './patches.ts'
import type { DenoiseConditions, DenoiseInputs } from './denoise.ts'
import { encodeImage, toPixels } from './encode.ts'
import { applyGuidance, createSchedule, stepEuler } from './flow-match.ts'
import type {
  GenerateHooks,
  ImageRequest,
  ImageResult,
  ModelInfo,
  Progress,
} from './image-request.ts'
import { openGlyphEncoder } from './glyph-encoder.ts'
import type { StageOptions } from './glyph-encoder.ts'
import { createNoise } from './noise.ts'
import { planRequest } from './plan-request.ts'
import type { PlannedRequest, PlannedSource } from './plan-request.ts'
import { requireFinite } from './outputs.ts'
import { requireProvider } from './session.ts'
import type { Provider } from './session.ts'
import { createSourceReader } from './source-reader.ts'
import type { ReadSources } from './source-reader.ts'
import {
  countCells,
  fitTokens,
  openVisualTokenWriter,
  planWrittenGrids,
  upsample,
} from './visual-tokens.ts'

export interface Pipeline {
  readonly info: ModelInfo
  /**
   * Makes one picture. Same request, checkpoint and machine: same bytes.
   *
   * Each run of a graph blocks the event loop; between runs the loop turns once and `signal` is looked at.
   *
   * @throws EngineError `invalid_request` naming the field; `canceled` after an abort; `engine_failed` when a stage
   *   gives numbers that are not finite
   */
  generate(request: ImageRequest, hooks: GenerateHooks): Promise<ImageResult>
  close(): Promise<void>
}

/**
 * Opens a checkpoint folder for generation.
 *
 * @throws CheckpointError naming the file and what is wrong with it, or the memory that is missing
 * @throws EngineError `provider_unavailable`
 */
export async function openPipeline(
  modelDir: string,
  options: { threads?: number; provider?: Provider } = {},
): Promise<Pipeline> {
  await requireProvider(options.provider ?? 'cpu')
  const checkpoint = await openCheckpoint(modelDir)
  if (options.provider !== 'cuda') await requireMemory(checkpoint)
  const stages = await openStages(checkpoint, options)
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
  }
  return {
    info,
    generate: async (request, hooks) =>
      generate({ checkpoint, stages }, await planRequest(checkpoint, request), hooks),
    async close() {
      await stages.sources.close()
      await stages.writer.close()
      await stages.glyphs.close()
      await stages.denoiser.close()
      await stages.decoder.close()
    },
  }
}

interface Model {
  checkpoint: Checkpoint
  stages: Awaited<ReturnType<typeof openStages>>
}

async function openStages(
  checkpoint: Checkpoint,
  options: { threads?: number; provider?: Provider },
) {
  // The processor has no bfloat16 kernels for most operators; the card has, and float32 would double its memory.
  const compute: StageOptions['compute'] = options.provider === 'cuda' ? 'bfloat16' : 'float32'
  const glyphs = await openGlyphEncoder(checkpoint, { ...options, compute: 'float32' })
  const denoiser = await openDenoiser(checkpoint, { ...options, compute })
  return {
    glyphs,
    glyphNull: await glyphs.encode(''),
    writer: await openVisualTokenWriter(checkpoint, { ...options, compute }),
    denoiser,
    decoder: await openPixelDecoder(checkpoint, options),
    sources: createSourceReader(checkpoint, denoiser, { ...options, compute }),
  }
}

async function generate(
  model: Model,
  { request, sources }: PlannedRequest,
  hooks: GenerateHooks,
): Promise<ImageResult> {
  const { checkpoint } = model
  const { width, height } = request
  const report = (stage: Progress['stage'], step: number, total: number) =>
    pause(hooks, { stage, step, total })
  const timer = startTimer()

  const read = await readSources(model, sources, (done, total) => report('images', done, total))
  if (read) timer.lap('images')

  const grids = planWrittenGrids({ width, height, cellPixels: checkpoint.cellPixels }, sources)
  let tokens = request.tokens
  if (!tokens || !fitTokens(tokens, grids.large, checkpoint.autoregressive)) {
    const visual = await model.stages.writer.write(
      { ...request, sources: read?.codes ?? [] },
      { onChunk: (written, total) => report('tokens', written, total) },
    )
    tokens = visual.tokens
    hooks.onTokens?.(tokens)
    timer.lap('tokens')
  }

  await report('glyph', 0, 1)
  const conditions = await prepareConditions(model, request, {
    priorIds: Array.from(upsample(tokens, grids.large)),
    ...(read && { sources: read.cache }),
  })
  await report('glyph', 1, 1)
  timer.lap('glyph')

  const latents = await denoise(model, request, conditions, (step, total) =>
    report('denoise', step, total),
  )
  timer.lap('denoise')

  await report('decode', 0, 1)
  const planes = await model.stages.decoder.decode(latents, toLatentGrid(model, request))
  await report('decode', 1, 1)
  timer.lap('decode')

  const image = await encodeImage(toPixels(planes), { width, height }, request.format)
  await report('encode', 1, 1)
  timer.lap('encode')
  return {
    ...image,
    width,
    height,
    seed: request.seed,
    steps: request.steps,
    guidanceScale: request.guidanceScale,
    tokenCount: countCells(grids.preview) + countCells(grids.large),
    timingsMs: timer.read(),
  }
}

async function readSources(
  { stages }: Model,
  sources: readonly PlannedSource[],
  onPart: (done: number, total: number) => Promise<void>,
): Promise<ReadSources | null> {
  return sources.length === 0 ? null : stages.sources.read(sources, onPart)
}

async function prepareConditions(
  { stages }: Model,
  { prompt, width, height }: CheckedRequest,
  own: Pick<DenoiseInputs, 'priorIds' | 'sources'>,
): Promise<DenoiseConditions> {
  const glyph = await stages.glyphs.encode(prompt)
  requireFinite(glyph.data, 'glyph')
  return stages.denoiser.prepare({ glyph, glyphNull: stages.glyphNull, width, height, ...own })
}

/** Noise to latents [channels, rows, columns]. The loop runs on patches, so the layout changes only at its ends. */
async function denoise(
  model: Model,
  request: CheckedRequest,
  conditions: DenoiseConditions,
  report: (step: number, total: number) => Promise<void>,
): Promise<Float32Array> {
  const { checkpoint, stages } = model
  const { seed, steps, guidanceScale } = request
  const { inChannels: channels, patchSize: patch } = checkpoint.transformer
  const layout = { channels, patch, ...toLatentGrid(model, request) }
  const patches = toPatches(createNoise(seed, channels * layout.rows * layout.columns), layout)
  const tokenCount = (layout.rows / patch) * (layout.columns / patch)
  const { timesteps, sigmas } = createSchedule(checkpoint.scheduler, { steps, tokenCount })
  await report(0, steps)
  for (const [step, timestep] of timesteps.entries()) {
    const { conditional, unconditional } = await stages.denoiser.evaluate(
      patches,
      timestep - 1,
      conditions,
      guidanceScale > 1,
    )
    if (unconditional) applyGuidance(conditional, unconditional, guidanceScale)
    requireFinite(conditional, 'denoise')
    const [sigma = 0, sigmaNext = 0] = sigmas.subarray(step, step + 2)
    stepEuler(patches, conditional, { sigma, sigmaNext })
    await report(step + 1, steps)
  }
  return fromPatches(patches, layout)
}

function toLatentGrid(
  { checkpoint }: Model,
  { width, height }: CheckedRequest,
): { rows: number; columns: number } {
  const { scale } = checkpoint.vae
  return { rows: height / scale, columns: width / scale }
}

/** Reports, then lets the event loop turn so that a cancel can arrive, then looks for it. */
async function pause({ signal, onProgress }: GenerateHooks, progress: Progress): Promise<void> {
  onProgress?.(progress)
  await nextTurn()
  if (signal?.aborted) {
    throw new EngineError('canceled', `canceled in stage ${progress.stage}`, {
      cause: signal.reason,
    })
  }
}

function startTimer() {
  const start = performance.now()
  const laps: Record<string, number> = {}
  let last = start
  const round = (durationMs: number) => Math.round(durationMs * 10) / 10
  return {
    lap(stage: string) {
      const now = performance.now()
      laps[stage] = round(now - last)
      last = now
    },
    read: (): Record<string, number> => ({ ...laps, total: round(last - start) }),
  }
}
