import { EngineError } from '../engine-error.ts'
import type { Checkpoint } from '../model/checkpoint.ts'
import { canEdit, readEditingConfig } from '../model/editing.ts'
import { nearestSize, readSize } from '../model/serving.ts'
import { checkRequest } from './check-request.ts'
import type { CheckedRequest } from './check-request.ts'
import type { ImageRequest } from './image-request.ts'
import { openPromptRenderer } from './prompt.ts'
import type { Grid } from './prompt.ts'
import { ImageFileError, readImageSize } from './read-image.ts'
import { planSourceGrid, sourceProblem } from './source-grid.ts'
import type { Size } from './source-grid.ts'

/** A condition image whose header was read. */
export interface PlannedSource {
  readonly bytes: Uint8Array
  readonly grid: Grid
}

export interface PlannedRequest {
  readonly request: CheckedRequest
  readonly sources: readonly PlannedSource[]
}

/**
 * Checks a request as far as that is possible without decoding a picture or running a graph, and fills in what the
 * checkpoint is served with. A picture whose size is left open has the size of the first condition image, or the one on
 * offer that is nearest to it.
 *
 * @throws EngineError `invalid_request`; the message names the field and the rule
 * @throws CheckpointError when the checkpoint's configuration of editing cannot be used
 */
export async function planRequest(
  checkpoint: Checkpoint,
  request: ImageRequest,
): Promise<PlannedRequest> {
  const sources = await planSources(checkpoint, request.images ?? [])
  if (sources.length > 0) await refuseImageToken(checkpoint, request)
  const { serving, cellPixels } = checkpoint
  const [first] = sources
  const own = first
    ? nearestSize(toSize(first.grid, cellPixels), serving.size)
    : readSize(serving.size.default)
  // One side alone says nothing about the other.
  const isOpen = request.width === undefined && request.height === undefined
  const { width = NaN, height = NaN } = isOpen ? own : request
  return { request: checkRequest({ ...request, width, height }, serving), sources }
}

async function planSources(
  checkpoint: Checkpoint,
  images: readonly Uint8Array[],
): Promise<PlannedSource[]> {
  if (images.length === 0) return []
  const { maxCount, maxPixels } = checkpoint.serving.images
  if (!(await canEdit(checkpoint))) throw refuse('images', 'are not read by this model')
  if (images.length > maxCount) throw refuse('images', `must be at most ${maxCount}`)
  const { preparation } = await readEditingConfig(checkpoint)
  const sources: PlannedSource[] = []
  for (const [index, bytes] of images.entries()) {
    const size = await sizeOf(bytes, index)
    const problem = sourceProblem(size, preparation)
    if (problem !== null) throw refuse(`images[${index}]`, problem)
    sources.push({ bytes, grid: planSourceGrid(size, preparation) })
  }
  const pixels = sources.reduce((sum, { grid }) => {
    const { width, height } = toSize(grid, checkpoint.cellPixels)
    return sum + width * height
  }, 0)
  if (pixels <= maxPixels) return sources
  throw refuse(
    'images',
    `must have at most ${maxPixels} pixels together at the sizes in which they are read, not ${pixels}`,
  )
}

/** Spelled in the text it would be one image more than there are; so the reference fails. */
async function refuseImageToken({ dir }: Checkpoint, { prompt }: ImageRequest): Promise<void> {
  const { imageToken } = await openPromptRenderer(dir)
  if (!prompt.includes(imageToken)) return
  const message = `prompt must not contain ${imageToken}`
  throw new EngineError('invalid_request', message, { field: 'prompt' })
}

async function sizeOf(bytes: Uint8Array, index: number): Promise<Size> {
  try {
    return await readImageSize(bytes)
  } catch (error) {
    throw toRefusal(error, index)
  }
}

/** What a broken file means for the request that it came with; any other error stays what it is. */
export function toRefusal(error: unknown, index: number): unknown {
  if (!(error instanceof ImageFileError)) return error
  return refuse(`images[${index}]`, error.message, error)
}

function refuse(place: string, rule: string, cause?: unknown): EngineError {
  return new EngineError('invalid_request', `${place} ${rule}`, { field: 'images', cause })
}

function toSize({ rows, columns }: Grid, cellPixels: number): Size {
  return { width: columns * cellPixels, height: rows * cellPixels }
}
