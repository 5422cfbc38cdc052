import type { Checkpoint } from '../model/checkpoint.ts'
import { VECTORS_PER_BLOCK } from '../model/transformer-conditions.ts'
import type { CheckedRequest } from './check-request.ts'
import { openPixelDecoder } from './decode.ts'
import { openDenoiser } from './denoise.ts'
import type { DenoiseConditions } from './denoise.ts'
import { encodeImage, toPixels } from './encode.ts'
import { applyGuidance, createSchedule, stepEuler } from './flow-match.ts'
import { openGlyphEncoder } from './glyph-encoder.ts'
import type { StageOptions } from './glyph-encoder.ts'
import type { ImageResult, Progress } from './image-request.ts'
import { createNoise } from './noise.ts'
import { requireFinite } from './outputs.ts'
import { fromPatches, toPatches } from './patches.ts'
import type { HostTensor, RunHooks } from './session.ts'
import { createSourceReader } from './source-reader.ts'
import type { CodedSource } from './source-reader.ts'
import { pause, startTimer } from './stage.ts'
import type { Stage, StageHooks } from './stage.ts'
import { createStepCache } from './step-cache.ts'
import { planWrittenGrids, upsample } from './visual-tokens.ts'

export interface PaintInput {
  request: Omit<CheckedRequest, 'images' | 'tokens'>
  /** One per cell of the layout, row-major. */
  tokens: Int32Array
  sources: readonly CodedSource[]
}

export type Painted = Pick<ImageResult, 'bytes' | 'contentType' | 'sha256' | 'timingsMs'>

export type PainterStage = Stage<PaintInput, Painted>

export interface PainterOptions {
  /** See `createStepCache`; absent or 0: every step is computed. */
  stepCache?: number
  /** See `openSplitBlocks`; absent or 0: every block is computed. */
  firstBlockCache?: number
}

/**
 * Opens the second half of the model: from the layout to the file of a picture. One picture at a time, in the order of
 * the calls: one fills a card, and several at once would all end late. Only the making of the file does not hold up the
 * next.
 *
 * @throws CheckpointError
 */
export async function openPainterStage(
  checkpoint: Checkpoint,
  options: StageOptions & PainterOptions,
): Promise<PainterStage> {
  const parts = await openParts(checkpoint, options)
  let turn: Promise<unknown> = Promise.resolve()
  return {
    async run(input, hooks) {
      const drawn = turn.then(() => draw(parts, input, hooks))
      turn = drawn.catch(() => {})
      const { planes, timer } = await drawn
      const image = await encodeImage(toPixels(planes), input.request, input.request.format)
      timer.lap('encode')
      await pause(hooks, { stage: 'encode', step: 1, total: 1 })
      return { ...image, timingsMs: timer.read() }
    },
    async close() {
      await turn
      await parts.sources.close()
      await parts.glyphs.close()
      await parts.denoiser.close()
      await parts.decoder.close()
    },
  }
}

type Parts = Awaited<ReturnType<typeof openParts>>
type Report = (progress: Progress) => Promise<void>

/** How a picture is followed, and ended. */
interface Watch extends RunHooks {
  report: Report
}

async function openParts(checkpoint: Checkpoint, options: StageOptions & PainterOptions) {
  const glyphs = await openGlyphEncoder(checkpoint, { ...options, compute: 'float32' })
  const denoiser = await openDenoiser(checkpoint, options)
  return {
    checkpoint,
    glyphs,
    glyphNull: await glyphs.encode(''),
    denoiser,
    decoder: await openPixelDecoder(checkpoint, options),
    sources: createSourceReader(checkpoint, denoiser, options),
    stepCache: options.stepCache ?? 0,
  }
}

async function draw(parts: Parts, input: PaintInput, hooks: StageHooks) {
  const { request } = input
  const { signal } = hooks
  const report: Report = (progress) => pause(hooks, progress)
  const timer = startTimer()
  const conditions = await prepare(parts, input, report)
  timer.lap('glyph')
  const latents = await denoise(parts, request, conditions, { report, signal }).finally(() =>
    conditions.release(),
  )
  timer.lap('denoise')
  await report({ stage: 'decode', step: 0, total: 1 })
  const planes = await parts.decoder.decode(latents, toLatentGrid(parts, request), { signal })
  await report({ stage: 'decode', step: 1, total: 1 })
  timer.lap('decode')
  return { planes, timer }
}

/** All that the steps share: quoted text, the layout, and what the denoiser keeps of condition images. */
async function prepare(
  { checkpoint, denoiser, glyphs, glyphNull, sources: reader }: Parts,
  { request, tokens, sources }: PaintInput,
  report: Report,
): Promise<DenoiseConditions> {
  const { prompt, width, height } = request
  const total = 1 + reader.partsOf(sources)
  const onPart = (step: number) => report({ stage: 'glyph', step, total })
  await onPart(0)
  const cache = sources.length === 0 ? null : await reader.read(sources, onPart)
  const glyph = await glyphs.encode(prompt)
  requireFinite(glyph.data, 'glyph')
  const { large } = planWrittenGrids({ width, height, cellPixels: checkpoint.cellPixels }, sources)
  const priorIds = Array.from(upsample(tokens, large))
  const own = { priorIds, width, height, ...(cache && { sources: cache }) }
  const conditions = await denoiser.prepare({ glyph, glyphNull, ...own })
  await onPart(total)
  return conditions
}

/** Noise to latents [channels, rows, columns]. The loop runs on patches, so the layout changes only at its ends. */
async function denoise(
  parts: Parts,
  request: PaintInput['request'],
  conditions: DenoiseConditions,
  { report, signal }: Watch,
): Promise<Float32Array> {
  const { checkpoint } = parts
  const { seed, steps } = request
  const { inChannels: channels, patchSize: patch } = checkpoint.transformer
  const layout = { channels, patch, ...toLatentGrid(parts, request) }
  const patches = toPatches(createNoise(seed, channels * layout.rows * layout.columns), layout)
  const tokenCount = (layout.rows / patch) * (layout.columns / patch)
  const { timesteps, sigmas } = createSchedule(checkpoint.scheduler, { steps, tokenCount })
  const cache = createStepCache(
    parts.stepCache,
    VECTORS_PER_BLOCK * checkpoint.transformer.innerSize,
  )
  await report({ stage: 'denoise', step: 0, total: steps })
  for (const [step, timestep] of timesteps.entries()) {
    const isLast = step === steps - 1
    const modulation = await parts.denoiser.modulate(timestep - 1, conditions)
    const velocity =
      cache.reuse(takeRows(modulation), isLast) ??
      cache.keep(
        await evaluate(parts, { patches, modulation, conditions, request, isLast, signal }),
      )
    const [sigma = 0, sigmaNext = 0] = sigmas.subarray(step, step + 2)
    stepEuler(patches, velocity, { sigma, sigmaNext })
    await report({ stage: 'denoise', step: step + 1, total: steps })
  }
  return fromPatches(patches, layout)
}

async function evaluate(
  { denoiser }: Parts,
  input: RunHooks & {
    request: PaintInput['request']
    patches: Float32Array
    modulation: HostTensor
    conditions: DenoiseConditions
    isLast: boolean
  },
): Promise<Float32Array> {
  const { patches, modulation, conditions, isLast, signal } = input
  const { guidanceScale } = input.request
  const velocities = await denoiser.evaluate(patches, modulation, conditions, {
    guided: guidanceScale > 1,
    mustCompute: isLast,
    signal,
  })
  const { conditional, unconditional } = velocities
  if (unconditional) applyGuidance(conditional, unconditional, guidanceScale)
  requireFinite(conditional, 'denoise')
  return conditional
}

function takeRows({ data }: HostTensor): Float32Array {
  if (!(data instanceof Float32Array)) throw new Error('the modulation is not float32')
  return data
}

function toLatentGrid(
  { checkpoint }: Parts,
  { width, height }: { width: number; height: number },
): { rows: number; columns: number } {
  const { scale } = checkpoint.vae
  return { rows: height / scale, columns: width / scale }
}
