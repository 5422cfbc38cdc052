import type { Checkpoint } from '../model/checkpoint.ts'
import type { TransformerConfig } from '../model/config.ts'
import { buildConditions, buildModulation } from '../model/transformer-conditions.ts'
import { openSplitBlocks, openWholeBlocks } from './denoise-branch.ts'
import type { Blocks, Branch } from './denoise-branch.ts'
import type { StageOptions } from './glyph-encoder.ts'
import { takeTensor } from './outputs.ts'
import { openSession } from './session.ts'
import type { Feeds, HostTensor, RunHooks, Session } from './session.ts'
import { emptyCache, toCache } from './source-cache.ts'
import type { SourceCache } from './source-cache.ts'

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
  /** What `readSource` gave for each condition image, joined; the branch without the prompt does without them too. */
  sources?: SourceCache
}

/** A condition image as the denoiser reads it. */
export interface Source {
  /** float32 [tokens, channels * patch^2], without noise; see `toPatches`. */
  patches: Float32Array
  /** One id per token, row-major. */
  priorIds: readonly number[]
  /** Pixels. */
  width: number
  height: number
}

/** What a picture's steps share; made by `prepare`. */
export interface DenoiseConditions {
  conditional: Branch
  unconditional: Branch
  sizeEmbedding: HostTensor
  /** Lets go of it; closing the denoiser does it too. */
  release(): void
}

export interface Velocities {
  conditional: Float32Array
  /** Null when guidance is off. */
  unconditional: Float32Array | null
  /** Branches that were computed whole. */
  computed: number
}

export interface DenoiserOptions extends StageOptions {
  /** Leaves blocks out where little changes; see `openSplitBlocks`. Absent or 0: none. */
  firstBlockCache?: number
}

export interface Denoiser {
  /** Keys and values of a condition image in every layer, once per image: no step changes them. */
  readSource(source: Source): Promise<SourceCache>
  /** Runs everything that does not depend on the step, once per picture. */
  prepare(inputs: DenoiseInputs): Promise<DenoiseConditions>
  /** What the time does to every block: float32 [12 * layers + 2, D], the first block's rows first. */
  modulate(timestep: number, conditions: DenoiseConditions): Promise<HostTensor>
  /**
   * Evaluates one step.
   *
   * @param patches float32 [tokens, channels * patch^2]; see `toPatches`
   * @param time the unshifted timestep minus one, or what `modulate` gave for it
   * @param options.guided false skips the unconditional branch
   * @param options.mustCompute leaves nothing out, whatever the cache says
   * @param options.signal ends the step in the middle where the backend can
   * @returns velocities in the same layout as `patches`
   */
  evaluate(
    patches: Float32Array,
    time: number | HostTensor,
    conditions: DenoiseConditions,
    options: { guided: boolean; mustCompute?: boolean } & RunHooks,
  ): Promise<Velocities>
  close(): Promise<void>
}

/** Opens the three graphs of the denoiser. */
export async function openDenoiser(
  checkpoint: Checkpoint,
  options: DenoiserOptions,
): Promise<Denoiser> {
  const config = checkpoint.transformer
  const model = {
    config,
    tensors: await checkpoint.tensors('transformer'),
    compute: options.compute,
  }
  const conditions = await openSession(buildConditions(model), options)
  const modulation = await openSession(buildModulation(model), options)
  const threshold = options.firstBlockCache ?? 0
  const blocks =
    threshold > 0
      ? await openSplitBlocks(model, { ...options, threshold })
      : await openWholeBlocks(model, options)
  const graphs = { conditions, modulation, blocks }
  return {
    readSource: (source) => readSource(graphs, checkpoint, source),
    prepare: (inputs) => prepare(graphs, checkpoint, inputs),
    modulate: (timestep, { sizeEmbedding }) =>
      modulate(graphs, config, { timestep, sizeEmbedding }),
    async evaluate(patches, time, conditions, { guided, ...hooks }) {
      const { conditional, unconditional, sizeEmbedding } = conditions
      const modulation =
        typeof time === 'number'
          ? await modulate(graphs, config, { timestep: time, sizeEmbedding })
          : time
      const shared = {
        patches: toInput(patches, config),
        modulation,
      }
      const withPrompt = await conditional.step(shared, hooks)
      const without = guided ? await unconditional.step(shared, hooks) : null
      return {
        conditional: withPrompt.velocity,
        unconditional: without?.velocity ?? null,
        computed: Number(withPrompt.isComputed) + Number(without?.isComputed ?? false),
      }
    },
    async close() {
      await conditions.close()
      await modulation.close()
      await blocks.close()
    },
  }
}

interface Graphs {
  conditions: Session
  modulation: Session
  blocks: Blocks
}

async function readSource(
  graphs: Graphs,
  { transformer: config, patchPixels }: Checkpoint,
  { patches, priorIds, width, height }: Source,
): Promise<SourceCache> {
  const noText = { data: new Float32Array(0), shape: [0, config.textSize] }
  const inputs = { glyph: noText, glyphNull: noText, priorIds, width, height }
  const shared = await graphs.conditions.run(toConditionFeeds(inputs, config))
  const sizeEmbedding = takeTensor(shared, 'size_embedding')
  const grid = { rows: height / patchPixels, columns: width / patchPixels }
  const feeds = {
    text: takeTensor(shared, 'text'),
    prior: takeTensor(shared, 'prior'),
    patches: toInput(patches, config),
    // Timestep 0 and not one less: the image is not a step of any picture.
    modulation: await modulate(graphs, config, { timestep: 0, sizeEmbedding }),
    kept: toCount(priorIds.length),
    ...toRotaryTables(config.headDim, { ...grid, textLength: 0 }),
    ...emptyCache(config),
  }
  return toCache(await graphs.blocks.keep(feeds), config)
}

async function prepare(
  { conditions, blocks }: Graphs,
  { transformer: config, patchPixels }: Checkpoint,
  inputs: DenoiseInputs,
): Promise<DenoiseConditions> {
  const results = await conditions.run(toConditionFeeds(inputs, config))
  const grid = { rows: inputs.height / patchPixels, columns: inputs.width / patchPixels }
  const texts = [takeTensor(results, 'text'), takeTensor(results, 'text_null')]
  const longest = Math.max(...texts.map(({ shape }) => shape[0] ?? 0))
  const rotary = toRotaryTables(config.headDim, { ...grid, textLength: longest })
  const branch = (textName: string, priorName: string, sources: SourceCache): Branch => {
    const text = takeTensor(results, textName)
    const own = dropRows(rotary, longest - (text.shape[0] ?? 0))
    const prior = takeTensor(results, priorName)
    return blocks.bind({ text, prior, kept: toCount(0), ...own, ...sources })
  }
  const nothing = emptyCache(config)
  const conditional = branch('text', 'prior', inputs.sources ?? nothing)
  const unconditional = branch('text_null', 'prior_null', nothing)
  return {
    conditional,
    unconditional,
    release() {
      conditional.release()
      unconditional.release()
    },
    sizeEmbedding: takeTensor(results, 'size_embedding'),
  }
}

async function modulate(
  { modulation }: Graphs,
  config: TransformerConfig,
  { timestep, sizeEmbedding }: { timestep: number; sizeEmbedding: HostTensor },
): Promise<HostTensor> {
  const features = Float32Array.from(toSinusoid(timestep, config.timeSize))
  const results = await modulation.run({
    time_features: { data: features, shape: [1, config.timeSize] },
    size_embedding: sizeEmbedding,
  })
  return takeTensor(results, 'modulation')
}

function toInput(patches: Float32Array, { inChannels, patchSize }: TransformerConfig): HostTensor {
  const width = inChannels * patchSize ** 2
  return { data: patches, shape: [patches.length / width, width] }
}

function toCount(count: number): HostTensor {
  return { data: BigInt64Array.of(BigInt(count)), shape: [1] }
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

/** Tables for a shorter text, without a copy: rows of text come first and are all alike. */
function dropRows(
  { cos, sin }: Record<'cos' | 'sin', FloatTensor>,
  count: number,
): Record<'cos' | 'sin', HostTensor> {
  const drop = ({ data, shape: [rows = 0, width = 0] }: FloatTensor): HostTensor => ({
    data: data.subarray(count * width),
    shape: [rows - count, width],
  })
  return { cos: drop(cos), sin: drop(sin) }
}

type FloatTensor = HostTensor & { data: Float32Array }

/** Rotation tables [textLength + tokens, headDim / 2]: none for text, then row angles and column angles by token. */
function toRotaryTables(
  headDim: number,
  { rows, columns, textLength }: { rows: number; columns: number; textLength: number },
): Record<'cos' | 'sin', FloatTensor> {
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
