import type { Grid, GridPlan } from './prompt.ts'
import type { Positions } from '../model/rope.ts'

/**
 * Positions of a text-to-image prompt and of the tokens fed back after it.
 *
 * Text counts up on all three axes. Then come the grids in the order of writing: the preview at base P,
 * the large grid at base P + max(preview sides), the end marker after it; a cell (r, c) of a grid with base
 * B stands at (B, B + r, B + c).
 *
 * @param promptLength number of prompt tokens
 * @returns one entry per prompt token, preview cell, large cell, and the end marker
 */
export function planPositions(promptLength: number, grids: GridPlan): Positions {
  const temporal = Array.from({ length: promptLength }, (_, index) => index)
  const height = [...temporal]
  const width = [...temporal]
  let base = promptLength
  const place = ({ rows, columns }: Grid) => {
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        temporal.push(base)
        height.push(base + row)
        width.push(base + column)
      }
    }
    base += Math.max(rows, columns)
  }
  place(grids.preview)
  place(grids.large)
  place({ rows: 1, columns: 1 })
  return { temporal, height, width }
}
