import { expect, test } from 'vitest'

import { resizePixels } from '../../../gpu-worker/pipeline/resample.ts'
import type { Pixels } from '../../../gpu-worker/pipeline/resample.ts'

/** Grey pixels of one row. */
const row = (...values: number[]): Pixels => ({
  data: Uint8Array.from(values.flatMap((value) => [value, value, value])),
  width: values.length,
  height: 1,
})
const greys = ({ data }: Pixels) => [...data].filter((_, index) => index % 3 === 0)

test('a picture of one colour keeps it to the bit, whatever the size and kernel', () => {
  const data = new Uint8Array(37 * 23 * 3).map((_, index) => [255, 128, 1][index % 3]!)
  for (const kernel of ['bicubic', 'lanczos'] as const) {
    const { data: resized } = resizePixels(
      { data, width: 37, height: 23 },
      { width: 64, height: 16 },
      kernel,
    )
    expect(resized).toHaveLength(64 * 16 * 3)
    for (const [index, value] of resized.entries()) expect(value).toBe([255, 128, 1][index % 3])
  }
})

test('the kernel widens with the reduction, so that fine stripes become their mean', () => {
  const stripes = row(...Array.from({ length: 512 }, (_, index) => (index % 2) * 255))
  const inner = greys(resizePixels(stripes, { width: 32, height: 1 }, 'bicubic')).slice(2, -2)
  for (const value of inner) expect(Math.abs(value - 127.5)).toBeLessThanOrEqual(0.5)
})

test('what overshoots is cut off at black and white instead of wrapping around', () => {
  const edge = greys(resizePixels(row(0, 0, 0, 255, 255, 255), { width: 24, height: 1 }, 'lanczos'))
  expect(edge[0]).toBe(0)
  expect(edge.at(-1)).toBe(255)
  expect(edge).toEqual(edge.toReversed().map((value) => 255 - value))
})

test('rows and columns are treated alike', () => {
  const values = [3, 250, 40, 90, 180, 10, 77]
  const lying = resizePixels(row(...values), { width: 5, height: 1 }, 'bicubic')
  const standing = resizePixels(
    { data: row(...values).data, width: 1, height: values.length },
    { width: 1, height: 5 },
    'bicubic',
  )
  expect(standing.data).toEqual(lying.data)
})

test('a picture that has the size already is not touched', () => {
  const source = row(1, 2, 3)
  expect(resizePixels(source, { width: 3, height: 1 }, 'lanczos')).toBe(source)
})
