/** Positions of tokens on the three axes; equal lengths. */
export interface Positions {
  readonly temporal: readonly number[]
  readonly height: readonly number[]
  readonly width: readonly number[]
}

/** Row-major float32 [count, size], one row per token. */
export interface RotaryTable {
  readonly cos: Float32Array
  readonly sin: Float32Array
  readonly count: number
  readonly size: number
}

/**
 * Rotation angles of the autoregressive model: frequency i = theta^(-2i/width) turns with the temporal,
 * height or width position, by sections. Angles are taken in double precision and rounded once.
 *
 * @param options.width rotary dimensions of a head (even); the table has half as many columns
 * @param options.section how many frequencies follow each axis, in the order temporal, height, width
 * @source Su et al. 2021; multi-axis sections as in the reference implementation
 */
export function createRotaryTable(
  positions: Positions,
  options: { width: number; theta: number; section: readonly number[] },
): RotaryTable {
  const { width, theta, section } = options
  const size = width / 2
  const axes = [positions.temporal, positions.height, positions.width]
  const axisOf = section.flatMap((length, axis) => Array<number>(length).fill(axis))
  const count = positions.temporal.length
  const cos = new Float32Array(count * size)
  const sin = new Float32Array(count * size)
  for (let row = 0; row < count; row++) {
    for (let column = 0; column < size; column++) {
      const position = axes[axisOf[column] ?? 0]?.[row] ?? 0
      const angle = position * theta ** ((-2 * column) / width)
      cos[row * size + column] = Math.cos(angle)
      sin[row * size + column] = Math.sin(angle)
    }
  }
  return { cos, sin, count, size }
}

/** Rows `start` to `end` (exclusive) of a table, without a copy. */
export function rotaryRows(table: RotaryTable, start: number, end: number): RotaryTable {
  const { cos, sin, size } = table
  return {
    cos: cos.subarray(start * size, end * size),
    sin: sin.subarray(start * size, end * size),
    count: end - start,
    size,
  }
}
