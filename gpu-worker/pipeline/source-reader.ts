import { EngineError } from '../engine-error.ts'
import type { Checkpoint } from '../model/checkpoint.ts'
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
import { openSourceEncoder } from './source-encoder.ts'
import type { SourceEncoder } from './source-encoder.ts'
import { countCells, upsample } from './visual-tokens.ts'
import type { SourceCodes } from './visual-tokens.ts'

/** Everything that a picture takes from its condition images. */
export interface ReadSources {
  readonly codes: readonly SourceCodes[]
  readonly cache: SourceCache
}

export interface SourceReader {
  /**
   * Reads condition images, each once for all steps of a picture.
   *
   * @param sources at least one
   * @param onPart called before the first part and after each with the parts done and their total; the next starts when
   *   it resolves, and a throw from it ends the reading
   * @throws EngineError `invalid_request` for a broken file, `engine_failed` for numbers that are not finite
   * @throws CheckpointError
   */
  read(
    sources: readonly PlannedSource[],
    onPart: (done: number, total: number) => Promise<void>,
  ): Promise<ReadSources>
  close(): Promise<void>
}

/** Per image: decoding, visual codes, latents, keys and values. */
const PARTS_PER_SOURCE = 4
/** The denoiser divides a cell of the token grid into two by two. */
const TOKENS_PER_CELL = 4

/** Prepares the reading of condition images; its graphs are opened when the first one comes. */
export function createSourceReader(
  checkpoint: Checkpoint,
  denoiser: Denoiser,
  options: StageOptions,
): SourceReader {
  let opened: SourceEncoder | null = null
  const openOnce = async () => {
    if (opened) return opened
    if (options.provider !== 'cuda') await requireMemory(checkpoint, { part: 'images' })
    opened = await openSourceEncoder(checkpoint, options)
    return opened
  }
  return {
    async read(sources, onPart) {
      const total = sources.length * PARTS_PER_SOURCE
      let done = 0
      const finishPart = () => onPart(++done, total)
      await onPart(0, total)
      requireRoom(checkpoint, sources)
      const encoder = await openOnce()
      const codes: SourceCodes[] = []
      const caches: SourceCache[] = []
      for (const [index, source] of sources.entries()) {
        const pixels = await decode(source, index)
        await finishPart()
        const own = { grid: source.grid, codes: await encoder.readCodes(pixels, source.grid) }
        await finishPart()
        const { latents } = await encoder.readLatents(pixels, source.grid)
        await finishPart()
        caches.push(await readCache(checkpoint, denoiser, { ...own, latents }))
        codes.push(own)
        await finishPart()
      }
      return { codes, cache: joinCaches(caches, checkpoint.transformer) }
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
