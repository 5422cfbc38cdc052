import type { Checkpoint } from '../model/checkpoint.ts'
import type { TransformerConfig } from '../model/config.ts'
import { buildConditions, buildModulation } from '../model/transformer-conditions.ts'
import { buildDenoiser } from '../model/transformer.ts'
import type { StageOptions } from './glyph-encoder.ts'
import { takeFloats, takeTensor } from './outputs.ts'
import { openSession } from './session.ts'
import type { Feeds, HostTensor } from './session.ts'

/** Base of the rotary and of the sinusoidal frequencies alike. */
const MAX_PERIOD = 10_000

export interface DenoiseInputs {
  /** Encoder states of the quoted text and of the empty text, float32 [length, textSize]. */
  glyph: HostTensor
  glyphNull: HostTensor
  /** One id per denoiser token, row-major. */
  priorIds: readonly number[]
  /** Picture size in pixels. */
  width: number
  height: number
}

/** What a picture's steps share; made by `prepare`. */
export interface DenoiseConditions {
  conditional: Branch
  unconditional: Branch
  sizeEmbedding: HostTensor
}

interface Branch {
  text: HostTensor
  prior: HostTensor
  cos: HostTensor
  sin: HostTensor
}

export interface Velocities {
  conditional: Float32Array
  /** Null when guidance is off. */
  unconditional: Float32Array | null
}

export interface Denoiser {
  /** Runs everything that does not depend on the step, once per picture. */
  prepare(inputs: DenoiseInputs): Promise<DenoiseConditions>
  /**
   * Evaluates one step.
   *
   * @param patches float32 [tokens, channels * patch^2]; see `toPatches`
   * @param timestep the unshifted timestep minus one
   * @param guided false skips the unconditional branch
   * @returns velocities in the same layout as `patches`
   */
  evaluate(
    patches: Float32Array,
    timestep: number,
    conditions: DenoiseConditions,
    guided: boolean,
  ): Promise<Velocities>
  close(): Promise<void>
}

/** Opens the three graphs of the denoiser. */
export async function openDenoiser(
  checkpoint: Checkpoint,
  options: StageOptions,
): Promise<Denoiser> {
  const config = checkpoint.transformer
  const model = {
    config,
    tensors: await checkpoint.tensors('transformer'),
    compute: options.compute,
  }
  const conditions = await openSession(buildConditions(model), options)
  const modulation = await openSession(buildModulation(model), options)
  const denoiser = await openSession(buildDenoiser(model), options)
  const patchWidth = config.inChannels * config.patchSize ** 2
  return {
    async prepare(inputs) {
      const results = await conditions.run(toConditionFeeds(inputs, config))
      const grid = {
        rows: inputs.height / checkpoint.patchPixels,
        columns: inputs.width / checkpoint.patchPixels,
      }
      const branch = (text: HostTensor, prior: HostTensor): Branch => ({
        text,
        prior,
        ...toRotaryTables(config.headDim, { ...grid, textLength: text.shape[0] ?? 0 }),
      })
      return {
        conditional: branch(takeTensor(results, 'text'), takeTensor(results, 'prior')),
        unconditional: branch(takeTensor(results, 'text_null'), takeTensor(results, 'prior_null')),
        sizeEmbedding: takeTensor(results, 'size_embedding'),
      }
    },
    async evaluate(patches, timestep, { conditional, unconditional, sizeEmbedding }, guided) {
      const features = Float32Array.from(toSinusoid(timestep, config.timeSize))
      const shared = await modulation.run({
        time_features: { data: features, shape: [1, config.timeSize] },
        size_embedding: sizeEmbedding,
      })
      const input = { data: patches, shape: [patches.length / patchWidth, patchWidth] }
      const run = async (branch: Branch) => {
        const feeds = { ...branch, patches: input, modulation: takeTensor(shared, 'modulation') }
        return takeFloats(await denoiser.run(feeds), 'velocity')
      }
      return {
        conditional: await run(conditional),
        unconditional: guided ? await run(unconditional) : null,
      }
    },
    async close() {
      await conditions.close()
      await modulation.close()
      await denoiser.close()
    },
  }
}

/**
 * Latents as rows of patches, each flattened channel first; the layout that the denoiser reads and writes.
 *
 * @param latents float32 [channels, rows, columns], rows and columns multiples of `patch`
 */
export function toPatches(latents: Float32Array, layout: PatchLayout): Float32Array {
  const patches = new Float32Array(latents.length)
  forEachElement(layout, (latent, patch) => {
    patches[patch] = latents[latent] ?? 0
  })
  return patches
}

/** The inverse of `toPatches`. */
export function fromPatches(patches: Float32Array, layout: PatchLayout): Float32Array {
  const latents = new Float32Array(patches.length)
  forEachElement(layout, (latent, patch) => {
    latents[latent] = patches[patch] ?? 0
  })
  return latents
}

export interface PatchLayout {
  channels: number
  rows: number
  columns: number
  patch: number
}

function forEachElement(
  { channels, rows, columns, patch }: PatchLayout,
  visit: (latent: number, patch: number) => void,
): void {
  const across = columns / patch
  for (let channel = 0; channel < channels; channel += 1) {
    for (let y = 0; y < rows; y += 1) {
      for (let x = 0; x < columns; x += 1) {
        const token = Math.floor(y / patch) * across + Math.floor(x / patch)
        const inside = (channel * patch + (y % patch)) * patch + (x % patch)
        visit((channel * rows + y) * columns + x, token * channels * patch * patch + inside)
      }
    }
  }
}

function toConditionFeeds(inputs: DenoiseInputs, config: TransformerConfig): Feeds {
  const { glyph, glyphNull, priorIds, width, height } = inputs
  // Crop offsets come first; the picture is never cropped here.
  const features = [0, 0, height, width].flatMap((value) => toSinusoid(value, config.conditionSize))
  return {
    glyph,
    glyph_null: glyphNull,
    prior_ids: { data: BigInt64Array.from(priorIds, BigInt), shape: [priorIds.length] },
    size_features: { data: Float32Array.from(features), shape: [1, features.length] },
  }
}

/** Cosines, then sines, of `value` times size / 2 falling frequencies; frequencies in float32 as in training. */
function toSinusoid(value: number, size: number): number[] {
  const half = size / 2
  const angles = Array.from({ length: half }, (_, index) =>
    Math.fround(value * Math.fround(Math.exp((-Math.log(MAX_PERIOD) * index) / half))),
  )
  return [...angles.map((angle) => Math.cos(angle)), ...angles.map((angle) => Math.sin(angle))]
}

/** Rotation tables [textLength + tokens, headDim / 2]: none for text, then row angles and column angles by token. */
function toRotaryTables(
  headDim: number,
  { rows, columns, textLength }: { rows: number; columns: number; textLength: number },
): { cos: HostTensor; sin: HostTensor } {
  const width = headDim / 2
  const axis = width / 2
  const shape = [textLength + rows * columns, width]
  const cos = new Float32Array((textLength + rows * columns) * width).fill(1)
  const sin = new Float32Array(cos.length)
  for (let token = 0; token < rows * columns; token += 1) {
    const row = Math.floor(token / columns)
    const column = token % columns
    for (let index = 0; index < width; index += 1) {
      const position = index < axis ? row : column
      const angle = position * MAX_PERIOD ** (-(index % axis) / axis)
      const at = (textLength + token) * width + index
      cos[at] = Math.cos(angle)
      sin[at] = Math.sin(angle)
    }
  }
  return { cos: { data: cos, shape }, sin: { data: sin, shape } }
}
