import type { Grid, GridPlan } from './prompt.ts'
import type { Positions } from '../model/rope.ts'

/** A condition image in the prompt: its grid, and which token of the prompt is its first cell. */
export interface PlacedGrid extends Grid {
  readonly start: number
}

/**
 * Positions of a prompt and of the tokens fed back after it.
 *
 * Text counts up on all three axes. A grid stands at one base: cell (r, c) of a grid with base B is at (B, B + r,
 * B + c), and what follows goes on at B + max(sides). So do the grids that are written after the prompt: the preview,
 * the large grid, then the end marker.
 *
 * @param promptLength number of prompt tokens
 * @param sources condition images in the prompt, in order
 * @returns one entry per prompt token, preview cell, large cell, and the end marker
 */
export function planPositions(
  promptLength: number,
  grids: GridPlan,
  sources: readonly PlacedGrid[] = [],
): Positions {
  const temporal: number[] = []
  const height: number[] = []
  const width: number[] = []
  let base = 0
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
  const placeText = (end: number) => {
    while (temporal.length < end) place({ rows: 1, columns: 1 })
  }
  for (const source of sources) {
    placeText(source.start)
    place(source)
  }
  placeText(promptLength)
  if (grids.preview) place(grids.preview)
  place(grids.large)
  place({ rows: 1, columns: 1 })
  return { temporal, height, width }
}
