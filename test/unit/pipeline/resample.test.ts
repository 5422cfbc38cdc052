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

test.each([
  ['bicubic', 50, 40],
  ['bicubic', 110, 150],
  ['lanczos', 50, 40],
  ['lanczos', 110, 150],
] as const)('%s finds the values between the pixels at their places: to %d x %d', (...input) => {
  const [kernel, width, height] = input
  const wave = (x: number, y: number) => 128 + 100 * Math.sin(x / 5) * Math.cos(y / 7)
  const draw = (size: { width: number; height: number }) =>
    Float64Array.from({ length: size.width * size.height }, (_, pixel) => {
      const centre = (place: number, from: number, to: number) => ((place + 0.5) * from) / to - 0.5
      return wave(
        centre(pixel % size.width, 80, size.width),
        centre(Math.floor(pixel / size.width), 70, size.height),
      )
    })
  const size = { width: 80, height: 70 }
  const data = Uint8Array.from([...draw(size)].flatMap((value) => Array(3).fill(Math.round(value))))
  const resized = greys(resizePixels({ data, ...size }, { width, height }, kernel))
  const expected = draw({ width, height })
  const isInner = (pixel: number) => {
    const [x, y] = [pixel % width, Math.floor(pixel / width)]
    return x >= 8 && y >= 8 && x < width - 8 && y < height - 8
  }
  for (const [pixel, value] of resized.entries()) {
    if (isInner(pixel)) expect(Math.abs(value - expected[pixel]!)).toBeLessThan(2)
  }
})

test('a picture that has the size already is not touched', () => {
  const source = row(1, 2, 3)
  expect(resizePixels(source, { width: 3, height: 1 }, 'lanczos')).toBe(source)
})
