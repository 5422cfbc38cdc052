import { EngineError } from '../engine-error.ts'
import type { Checkpoint, TensorFolder } from '../model/checkpoint.ts'
import { readAvailableBytes, requireMemory } from '../model/memory.ts'
import type { Denoiser } from './denoise.ts'
import type { StageOptions } from './glyph-encoder.ts'
import { toPatches } from './patches.ts'
import { toRefusal } from './plan-request.ts'
import type { PlannedSource } from './plan-request.ts'
import type { Grid } from './prompt.ts'
import { decodeImage } from './read-image.ts'
import type { Pixels } from './resample.ts'
import { cacheBytes, joinCaches } from './source-cache.ts'
import type { SourceCache } from './source-cache.ts'
import { openLatentEncoder, openVisionTower } from './source-encoder.ts'
import { countCells, upsample } from './visual-tokens.ts'
import type { SourceCodes } from './visual-tokens.ts'

/** A condition image and what the layout was written with. */
export type CodedSource = PlannedSource & SourceCodes

/** Called after each part with the number of parts done; a throw from it ends the reading. */
type OnPart = (done: number, total: number) => Promise<void>

export interface CodeReader {
  /**
   * Reads condition images as the writer sees them.
   *
   * @param sources at least one
   * @throws EngineError `invalid_request` for a broken file, `engine_failed` for numbers that are not finite
   * @throws CheckpointError
   */
  read(sources: readonly PlannedSource[], onPart: OnPart): Promise<SourceCodes[]>
  close(): Promise<void>
}

export interface SourceReader {
  /** Parts of reading so many images. */
  partsOf(sources: readonly unknown[]): number
  /**
   * Reads condition images as the denoiser sees them, each once for all steps of a picture.
   *
   * @param sources at least one
   * @throws as `CodeReader.read`
   */
  read(sources: readonly CodedSource[], onPart: OnPart): Promise<SourceCache>
  close(): Promise<void>
}

/** Per image and reader: decoding and one graph, or two. */
const PARTS_FOR_CODES = 2
const PARTS_FOR_CACHE = 3
/** The denoiser divides a cell of the token grid into two by two. */
const TOKENS_PER_CELL = 4

/** Prepares the reading of condition images for the writer; its graph is opened when the first one comes. */
export function createCodeReader(checkpoint: Checkpoint, options: StageOptions): CodeReader {
  const tower = openLater(checkpoint, options, 'vision_language_encoder', openVisionTower)
  return {
    async read(sources, onPart) {
      const total = sources.length * PARTS_FOR_CODES
      let done = 0
      await onPart(0, total)
      // The writing would be for nothing.
      requireRoom(checkpoint, sources)
      const codes: SourceCodes[] = []
      const opened = await tower.open()
      for (const [index, source] of sources.entries()) {
        const pixels = await decode(source, index)
        await onPart(++done, total)
        codes.push({ grid: source.grid, codes: await opened.readCodes(pixels, source.grid) })
        await onPart(++done, total)
      }
      return codes
    },
    close: () => tower.close(),
  }
}

/** Prepares the reading of condition images for the denoiser; its graph is opened when the first one comes. */
export function createSourceReader(
  checkpoint: Checkpoint,
  denoiser: Denoiser,
  options: StageOptions,
): SourceReader {
  const encoder = openLater(checkpoint, options, 'vae', openLatentEncoder)
  return {
    partsOf: (sources) => sources.length * PARTS_FOR_CACHE,
    async read(sources, onPart) {
      const total = sources.length * PARTS_FOR_CACHE
      let done = 0
      requireRoom(checkpoint, sources)
      const opened = await encoder.open()
      const caches: SourceCache[] = []
      for (const [index, source] of sources.entries()) {
        const pixels = await decode(source, index)
        await onPart(++done, total)
        const { latents } = await opened.readLatents(pixels, source.grid)
        await onPart(++done, total)
        caches.push(await readCache(checkpoint, denoiser, { ...source, latents }))
        await onPart(++done, total)
      }
      return joinCaches(caches, checkpoint.transformer)
    },
    close: () => encoder.close(),
  }
}

/** Something that is opened at its first use. */
function openLater<Opened extends { close(): Promise<void> }>(
  checkpoint: Checkpoint,
  options: StageOptions,
  folder: TensorFolder,
  open: (checkpoint: Checkpoint, options: StageOptions) => Promise<Opened>,
) {
  let opened: Opened | null = null
  return {
    async open(): Promise<Opened> {
      if (opened) return opened
      if (options.provider !== 'cuda') {
        await requireMemory(checkpoint, { part: 'images', folders: [folder] })
      }
      opened = await open(checkpoint, options)
      return opened
    },
    async close() {
      await opened?.close()
      opened = null
    },
  }
}

/**
 * Refuses images whose keys and values would not fit: the system would end the process in the middle of them without a
 * word, and the limits of a request do not know the machine.
 *
 * @throws EngineError `engine_failed`
 */
export function requireRoom(
  { transformer }: Pick<Checkpoint, 'transformer'>,
  sources: readonly { grid: Grid }[],
  availableBytes: number = readAvailableBytes(),
): void {
  const tokens = sources.reduce((sum, { grid }) => sum + TOKENS_PER_CELL * countCells(grid), 0)
  const needed = cacheBytes(transformer, tokens)
  if (needed <= availableBytes) return
  const gigabytes = (bytes: number) => (bytes / 1e9).toFixed(1)
  throw new EngineError(
    'engine_failed',
    `the images need ${gigabytes(needed)} GB of memory, ${gigabytes(availableBytes)} GB available`,
  )
}

async function decode({ bytes }: PlannedSource, index: number): Promise<Pixels> {
  try {
    return await decodeImage(bytes)
  } catch (error) {
    throw toRefusal(error, index)
  }
}

/** What the denoiser keeps of an image: its latents under its own codes, at the size of its grid. */
export function readCache(
  { cellPixels, transformer, vae }: Checkpoint,
  denoiser: Denoiser,
  { grid, codes, latents }: SourceCodes & { latents: Float32Array },
): Promise<SourceCache> {
  const [width, height] = [grid.columns * cellPixels, grid.rows * cellPixels]
  const layout = {
    channels: transformer.inChannels,
    patch: transformer.patchSize,
    rows: height / vae.scale,
    columns: width / vae.scale,
  }
  const priorIds = Array.from(upsample(codes, grid))
  return denoiser.readSource({ patches: toPatches(latents, layout), priorIds, width, height })
}
