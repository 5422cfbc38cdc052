import { expect, test } from 'vitest'

import {
  planSourceGrid,
  samplePositions,
  sourceProblem,
} from '../../../gpu-worker/pipeline/source-grid.ts'

/** As published. */
const RULES = { patchSize: 16, minSide: 512, maxSide: 2048 }

test.each([
  [1024, 1024, 32, 32],
  [1056, 1024, 33, 32],
  [600, 800, 19, 25],
  [400, 400, 16, 16],
  [3000, 2000, 64, 43],
  // Those at which the reference ends with an error because its two readings differ.
  [1040, 1040, 32, 32],
  [4096, 4096, 64, 64],
  [16, 16, 16, 16],
  [64, 16, 64, 16],
  [2048, 512, 64, 16],
  [513, 2047, 16, 64],
])(
  'a picture of %d x %d (height x width) has the grid of the reference: %d x %d',
  (height, width, rows, columns) => {
    expect(sourceProblem({ width, height }, RULES)).toBeNull()
    expect(planSourceGrid({ width, height }, RULES)).toEqual({ rows, columns })
  },
)

test('every usable size up to the largest gets a grid within the learned positions', () => {
  for (let height = 16; height < 9_000; height = Math.ceil(height * 1.13)) {
    for (let width = 16; width < 9_000; width = Math.ceil(width * 1.11)) {
      if (sourceProblem({ width, height }, RULES) !== null) continue
      const { rows, columns } = planSourceGrid({ width, height }, RULES)
      expect(Math.min(rows, columns)).toBeGreaterThanOrEqual(1)
      expect(Math.max(rows, columns)).toBeLessThanOrEqual(128)
      expect(Number.isInteger(rows) && Number.isInteger(columns)).toBe(true)
    }
  }
})

test.each([
  [15, 400, /sides of at least 16 pixels/],
  [4_001, 1_000, /at most 4 times/],
  [1_000, 4_001, /at most 4 times/],
])('a picture of %d x %d is refused with the rule', (width, height, rule) => {
  expect(sourceProblem({ width, height }, RULES)).toMatch(rule)
})

test('a grid as large as the table takes each position as it is', () => {
  const { corners, shares } = samplePositions({ rows: 4, columns: 4 }, 4)
  expect(Array.from(corners.slice(0, 16), Number)).toEqual(Array.from({ length: 16 }, (_, i) => i))
  expect([...shares]).toEqual([...Array<number>(16).fill(1), ...Array<number>(48).fill(0)])
})

test('a smaller grid takes shares of four neighbours that sum to one, inside the table', () => {
  const { corners, shares } = samplePositions({ rows: 3, columns: 5 }, 8)
  for (let cell = 0; cell < 15; cell += 1) {
    const of = [0, 1, 2, 3].map((corner) => corner * 15 + cell)
    expect(of.reduce((sum, at) => sum + shares[at]!, 0)).toBeCloseTo(1, 6)
    for (const at of of) expect(Number(corners[at])).toBeLessThan(64)
  }
  // Row 0 of 3 stands at (0 + 0.5) * 8 / 3 - 0.5 = 0.8333, column 0 of 5 at 0.3.
  expect([0, 15, 30, 45].map((at) => Number(corners[at]))).toEqual([0, 1, 8, 9])
  expect(shares[0]).toBeCloseTo((1 - 5 / 6) * 0.7, 6)
  expect(shares[45]).toBeCloseTo((5 / 6) * 0.3, 6)
})
