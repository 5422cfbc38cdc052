import type { ImagePreparation } from '../model/editing.ts'
import type { Grid } from './prompt.ts'

export interface Size {
  readonly width: number
  readonly height: number
}

/** Longer pictures have no grid that the model was trained on. */
const MAX_ASPECT = 4

/** Why a picture of this size cannot be a condition image; null when it can. */
export function sourceProblem(
  { width, height }: Size,
  { patchSize }: Pick<ImagePreparation, 'patchSize'>,
): string | null {
  const [shorter, longer] = [Math.min(width, height), Math.max(width, height)]
  if (shorter < patchSize) return `must have sides of at least ${patchSize} pixels`
  if (longer / shorter > MAX_ASPECT) return `must be at most ${MAX_ASPECT} times as long as wide`
  return null
}

/**
 * The token grid of a condition image: its own proportions at half its size, after sides below the least or above the
 * most were brought there. One cell covers as many of its pixels as a cell of the picture to make.
 *
 * @param size pixels; no `sourceProblem`
 * @source image processor of the reference, which halves the sides before it scales them
 */
export function planSourceGrid(
  { width, height }: Size,
  { patchSize, minSide, maxSide }: Pick<ImagePreparation, 'patchSize' | 'minSide' | 'maxSide'>,
): Grid {
  const [shorter, longer] = [Math.min(width, height), Math.max(width, height)]
  let scale = shorter < minSide ? minSide / shorter : 1
  if (longer * scale > maxSide) scale = maxSide / longer
  const cells = (side: number) =>
    Math.max(1, roundToEven((Math.floor(side / 2) * scale) / patchSize))
  const grid = { rows: cells(height), columns: cells(width) }
  const excess = (Math.max(grid.rows, grid.columns) * patchSize) / maxSide
  if (excess <= 1) return grid
  const shrink = (count: number) => Math.max(1, Math.floor(count / excess))
  return { rows: shrink(grid.rows), columns: shrink(grid.columns) }
}

/** Where the learned positions are sampled: four neighbours of every cell, and the share of each. */
export interface PositionSamples {
  /** Rows of the table, [4, cells]. */
  readonly corners: BigInt64Array
  /** [4, cells]. */
  readonly shares: Float32Array
}

/**
 * Stretches the square table of learned positions over a grid, bilinearly, with its border continued outwards.
 *
 * @param side rows of the table, and columns
 */
export function samplePositions(grid: Grid, side: number): PositionSamples {
  const rows = sampleAxis(grid.rows, side)
  const columns = sampleAxis(grid.columns, side)
  const count = grid.rows * grid.columns
  const corners = new BigInt64Array(4 * count)
  const shares = new Float32Array(4 * count)
  let cell = 0
  for (const row of rows) {
    for (const column of columns) {
      for (const [index, [y, x]] of CORNERS.entries()) {
        corners[index * count + cell] = BigInt(row[y].place * side + column[x].place)
        shares[index * count + cell] = row[y].share * column[x].share
      }
      cell += 1
    }
  }
  return { corners, shares }
}

const CORNERS = [
  ['near', 'near'],
  ['near', 'far'],
  ['far', 'near'],
  ['far', 'far'],
] as const

function sampleAxis(count: number, side: number) {
  return Array.from({ length: count }, (_, index) => {
    const centre = Math.min(Math.max(((index + 0.5) * side) / count - 0.5, 0), side - 1)
    const place = Math.floor(centre)
    const share = centre - place
    return {
      near: { place, share: 1 - share },
      far: { place: Math.min(place + 1, side - 1), share },
    }
  })
}

/** To the nearest integer, halves to the even one. */
function roundToEven(value: number): number {
  const floor = Math.floor(value)
  const rest = value - floor
  if (rest !== 0.5) return Math.round(value)
  return floor % 2 === 0 ? floor : floor + 1
}
