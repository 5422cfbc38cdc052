import type { Checkpoint } from '../model/checkpoint.ts'
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
import { createSourceReader } from './source-reader.ts'
import type { CodedSource } from './source-reader.ts'
import { pause, startTimer } from './stage.ts'
import type { Stage } from './stage.ts'
import { planWrittenGrids, upsample } from './visual-tokens.ts'

export interface PaintInput {
  request: Omit<CheckedRequest, 'images' | 'tokens'>
  /** One per cell of the layout, row-major. */
  tokens: Int32Array
  sources: readonly CodedSource[]
}

export type Painted = Pick<ImageResult, 'bytes' | 'contentType' | 'sha256' | 'timingsMs'>

export type PainterStage = Stage<PaintInput, Painted>

/**
 * Opens the second half of the model: from the layout to the file of a picture. One picture at a time, in the order of
 * the calls: one fills a card, and several at once would all end late. Only the making of the file does not hold up the
 * next.
 *
 * @throws CheckpointError
 */
export async function openPainterStage(
  checkpoint: Checkpoint,
  options: StageOptions,
): Promise<PainterStage> {
  const parts = await openParts(checkpoint, options)
  let turn: Promise<unknown> = Promise.resolve()
  return {
    async run(input, hooks) {
      const drawn = turn.then(() => draw(parts, input, (progress) => pause(hooks, progress)))
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

async function openParts(checkpoint: Checkpoint, options: StageOptions) {
  const glyphs = await openGlyphEncoder(checkpoint, { ...options, compute: 'float32' })
  const denoiser = await openDenoiser(checkpoint, options)
  return {
    checkpoint,
    glyphs,
    glyphNull: await glyphs.encode(''),
    denoiser,
    decoder: await openPixelDecoder(checkpoint, options),
    sources: createSourceReader(checkpoint, denoiser, options),
  }
}

async function draw(parts: Parts, input: PaintInput, report: Report) {
  const { request } = input
  const timer = startTimer()
  const conditions = await prepare(parts, input, report)
  timer.lap('glyph')
  const latents = await denoise(parts, request, conditions, report)
  timer.lap('denoise')
  await report({ stage: 'decode', step: 0, total: 1 })
  const planes = await parts.decoder.decode(latents, toLatentGrid(parts, request))
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
  report: Report,
): Promise<Float32Array> {
  const { checkpoint, denoiser } = parts
  const { seed, steps, guidanceScale } = request
  const { inChannels: channels, patchSize: patch } = checkpoint.transformer
  const layout = { channels, patch, ...toLatentGrid(parts, request) }
  const patches = toPatches(createNoise(seed, channels * layout.rows * layout.columns), layout)
  const tokenCount = (layout.rows / patch) * (layout.columns / patch)
  const { timesteps, sigmas } = createSchedule(checkpoint.scheduler, { steps, tokenCount })
  await report({ stage: 'denoise', step: 0, total: steps })
  for (const [step, timestep] of timesteps.entries()) {
    const { conditional, unconditional } = await denoiser.evaluate(
      patches,
      timestep - 1,
      conditions,
      guidanceScale > 1,
    )
    if (unconditional) applyGuidance(conditional, unconditional, guidanceScale)
    requireFinite(conditional, 'denoise')
    const [sigma = 0, sigmaNext = 0] = sigmas.subarray(step, step + 2)
    stepEuler(patches, conditional, { sigma, sigmaNext })
    await report({ stage: 'denoise', step: step + 1, total: steps })
  }
  return fromPatches(patches, layout)
}

function toLatentGrid(
  { checkpoint }: Parts,
  { width, height }: { width: number; height: number },
): { rows: number; columns: number } {
  const { scale } = checkpoint.vae
  return { rows: height / scale, columns: width / scale }
}
