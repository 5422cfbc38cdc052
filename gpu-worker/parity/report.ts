/** One comparison of a stage with its reference tensor. */
export interface ParityRow {
  readonly caseName: string
  readonly stage: string
  /** Largest absolute difference; 0 for integer tensors. */
  readonly maxDifference: number
  /** Integers that differ, and lengths that do. */
  readonly mismatches: number
}

/** Compares float tensors of one length; another length is a mismatch and an infinite difference. */
export function compareFloats(
  caseName: string,
  stage: string,
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
): ParityRow {
  if (actual.length !== expected.length) {
    return { caseName, stage, maxDifference: Infinity, mismatches: 1 }
  }
  let maxDifference = 0
  for (let index = 0; index < actual.length; index++) {
    const difference = Math.abs((actual[index] ?? NaN) - (expected[index] ?? NaN))
    // NaN on either side must not pass as agreement.
    maxDifference = Number.isNaN(difference) ? Infinity : Math.max(maxDifference, difference)
  }
  return { caseName, stage, maxDifference, mismatches: 0 }
}

/** Compares integer tensors exactly. */
export function compareIntegers(
  caseName: string,
  stage: string,
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
): ParityRow {
  let mismatches = actual.length === expected.length ? 0 : 1
  for (let index = 0; index < Math.min(actual.length, expected.length); index++) {
    if (actual[index] !== expected[index]) mismatches += 1
  }
  return { caseName, stage, maxDifference: 0, mismatches }
}

/** Agreement that float32 arithmetic in another order allows, on tensors of unit scale. */
export const TOLERANCE = 1e-4

/** Whether a stage agrees: no integer differs, no float by more than the tolerance. */
export function agrees(row: ParityRow): boolean {
  return row.mismatches === 0 && row.maxDifference <= TOLERANCE
}

/** The rows as a table for a terminal, one line each. */
export function formatRows(rows: readonly ParityRow[]): string[] {
  const cells = rows.map((row) => [
    row.caseName,
    row.stage,
    row.maxDifference.toExponential(1),
    String(row.mismatches),
    agrees(row) ? 'ok' : 'DIFFERS',
  ])
  const lines = [['case', 'stage', 'largest difference', 'mismatches', ''], ...cells]
  const widths = lines.reduce(
    (most, line) => line.map((cell, column) => Math.max(cell.length, most[column] ?? 0)),
    [] as number[],
  )
  return lines.map((line) =>
    line
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd(),
  )
}
