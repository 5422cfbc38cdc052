import type { Checkpoint } from '../model/checkpoint.ts'
import { readEditingConfig } from '../model/editing.ts'
import type { ImagePreparation } from '../model/editing.ts'
import { buildVaeEncoder } from '../model/vae-encoder.ts'
import { buildVisionTower } from '../model/vision.ts'
import type { StageOptions } from './glyph-encoder.ts'
import { requireFinite, takeFloats, takeTensor } from './outputs.ts'
import type { Grid } from './prompt.ts'
import { resizePixels } from './resample.ts'
import type { Pixels } from './resample.ts'
import { openSession } from './session.ts'
import { samplePositions } from './source-grid.ts'

export interface VisionTower {
  /**
   * Visual codes of a picture, one per cell of its grid, row-major.
   *
   * @throws EngineError `engine_failed` when the tower gave a number that is not finite
   */
  readCodes(pixels: Pixels, grid: Grid): Promise<Int32Array>
  close(): Promise<void>
}

export interface LatentEncoder {
  /**
   * Latents of a picture at the size of its grid.
   *
   * @returns float32 [channels, rows * cell, columns * cell], as the denoiser takes them, and the encoder's own mean
   * @throws EngineError `engine_failed`
   */
  readLatents(pixels: Pixels, grid: Grid): Promise<{ latents: Float32Array; mean: Float32Array }>
  close(): Promise<void>
}

/**
 * Opens what reads condition images for the layout: the vision tower with its codebook. Pictures out of text need none.
 *
 * @throws CheckpointError
 */
export async function openVisionTower(
  checkpoint: Checkpoint,
  options: StageOptions,
): Promise<VisionTower> {
  const { vision, preparation } = await readEditingConfig(checkpoint)
  const writer = await checkpoint.tensors('vision_language_encoder')
  const tower = await openSession(buildVisionTower(vision, writer, options.compute), options)
  return {
    async readCodes(pixels, grid) {
      const cells = grid.rows * grid.columns
      const { corners, shares } = samplePositions(grid, vision.positionSide)
      const patches = toVisionPatches(pixels, grid, preparation)
      const results = await tower.run(
        {
          patches: { data: patches, shape: [cells, patches.length / cells] },
          corners: { data: corners, shape: [4, cells] },
          shares: { data: shares, shape: [4, cells] },
        },
        ['codes', 'magnitude'],
      )
      requireFinite(takeFloats(results, 'magnitude'), 'images')
      return Int32Array.from(takeTensor(results, 'codes').data, Number)
    },
    close: () => tower.close(),
  }
}

/**
 * Opens the way from pixels to latents, by which the denoiser reads condition images.
 *
 * @throws CheckpointError
 */
export async function openLatentEncoder(
  checkpoint: Checkpoint,
  options: StageOptions,
): Promise<LatentEncoder> {
  const { vae, cellPixels } = checkpoint
  const graph = buildVaeEncoder(vae, await checkpoint.tensors('vae'))
  const encoder = await openSession(graph, options)
  return {
    async readLatents(pixels, grid) {
      const planes = toPlanes(pixels, grid, cellPixels)
      const shape = [1, 3, grid.rows * cellPixels, grid.columns * cellPixels]
      const results = await encoder.run({ image: { data: planes, shape } })
      const latents = takeFloats(results, 'latents')
      requireFinite(latents, 'images')
      return { latents, mean: takeFloats(results, 'mean') }
    },
    close: () => encoder.close(),
  }
}

/**
 * The input of the vision tower: the picture at half the size of its grid, cut into patches of one cell each.
 *
 * @returns float32 [cells, 3 * patch^2], channel, row, column inside a patch
 */
export function toVisionPatches(
  pixels: Pixels,
  grid: Grid,
  preparation: Omit<ImagePreparation, 'minSide' | 'maxSide'>,
): Float32Array {
  const { patchSize, rescaleFactor, mean, deviation } = preparation
  const width = grid.columns * patchSize
  const { data } = resizePixels(pixels, { width, height: grid.rows * patchSize }, 'bicubic')
  const patches = new Float32Array(data.length)
  let at = 0
  for (let cell = 0; cell < grid.rows * grid.columns; cell += 1) {
    const top = Math.floor(cell / grid.columns) * patchSize
    const left = (cell % grid.columns) * patchSize
    for (let channel = 0; channel < 3; channel += 1) {
      for (let place = 0; place < patchSize ** 2; place += 1) {
        const y = top + Math.floor(place / patchSize)
        const x = left + (place % patchSize)
        const value = (data[(y * width + x) * 3 + channel] ?? 0) * rescaleFactor
        patches[at] = (value - (mean[channel] ?? 0)) / (deviation[channel] ?? 1)
        at += 1
      }
    }
  }
  return patches
}

/**
 * The input of the encoder to latents: the picture at the size of its grid, so that both readings of it have the same
 * tokens. The reference rounds each reading on its own and fails where they differ.
 *
 * @returns float32 [3, height, width] in -1..1
 */
export function toPlanes(pixels: Pixels, grid: Grid, cellPixels: number): Float32Array {
  const size = { width: grid.columns * cellPixels, height: grid.rows * cellPixels }
  const { data } = resizePixels(pixels, size, 'lanczos')
  const area = size.width * size.height
  const planes = new Float32Array(3 * area)
  for (let index = 0; index < planes.length; index += 1) {
    planes[index] = ((data[(index % area) * 3 + Math.floor(index / area)] ?? 0) / 255) * 2 - 1
  }
  return planes
}
