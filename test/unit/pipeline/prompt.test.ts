import { expect, test } from 'vitest'
import { planPositions } from '../../../gpu-worker/pipeline/positions.ts'
import { openPromptRenderer, planGrids } from '../../../gpu-worker/pipeline/prompt.ts'
import { createUniforms } from '../../../gpu-worker/pipeline/uniforms.ts'
import { upsample } from '../../../gpu-worker/pipeline/visual-tokens.ts'

const CHECKPOINT = 'test/fixtures/golden/checkpoint'

test.each([
  [512, 512, 16, 16, 16, 16],
  [768, 1152, 36, 24, 19, 13],
  [1152, 1024, 32, 36, 15, 16],
  [1280, 1280, 40, 40, 16, 16],
  [1568, 1056, 33, 49, 13, 19],
  [1472, 1088, 34, 46, 13, 18],
  [1728, 960, 30, 54, 11, 21],
  [1024, 2048, 64, 32, 22, 11],
  [2048, 2048, 64, 64, 16, 16],
])('%d x %d pixels: a %d x %d grid and a %d x %d preview', (width, height, ...expected) => {
  const { large, preview } = planGrids({ width, height, cellPixels: 32 })
  expect([large.rows, large.columns, preview.rows, preview.columns]).toEqual(expected)
})

test('the prompt names rows before columns, the large grid before the preview, then the start', async () => {
  const renderer = await openPromptRenderer(CHECKPOINT)
  const grids = planGrids({ width: 1728, height: 960, cellPixels: 32 })
  const text = renderer.render(' A sign\n', grids)
  expect(text).toMatch(/^ A sign\n<sop>30 54<eop><sop>11 21<eop><\|dit_token_\d+\|>$/)
})

test('fed-back tokens take the positions of the preview, then of the large grid, then of the end', () => {
  const grids = { large: { rows: 2, columns: 3 }, preview: { rows: 1, columns: 2 } }
  const { temporal, height, width } = planPositions(7, grids)
  expect(temporal.slice(0, 7)).toEqual([0, 1, 2, 3, 4, 5, 6])
  expect(temporal.slice(7)).toEqual([7, 7, 9, 9, 9, 9, 9, 9, 12])
  expect(height.slice(7)).toEqual([7, 7, 9, 9, 9, 10, 10, 10, 12])
  expect(width.slice(7)).toEqual([7, 8, 9, 10, 11, 9, 10, 11, 12])
})

test('every cell of the layout becomes two by two patches', () => {
  const patches = upsample(Int32Array.of(1, 2, 3, 4), { rows: 2, columns: 2 })
  expect([...patches]).toEqual([1, 1, 2, 2, 1, 1, 2, 2, 3, 3, 4, 4, 3, 3, 4, 4])
})

test('draws depend on the seed and the place alone, and stay in [0, 1)', () => {
  const many = createUniforms(42, 4352)
  expect(createUniforms(42, 7)).toEqual(many.slice(0, 7))
  expect(createUniforms(43, 7)).not.toEqual(many.slice(0, 7))
  expect(many.every((draw) => draw >= 0 && draw < 1)).toBe(true)
  const mean = many.reduce((sum, draw) => sum + draw, 0) / many.length
  expect(Math.abs(mean - 0.5)).toBeLessThan(0.02)
})
