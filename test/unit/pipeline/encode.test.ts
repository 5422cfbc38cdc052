import sharp from 'sharp'
import { expect, test } from 'vitest'

import { encodeImage } from '../../../gpu-worker/pipeline/encode.ts'

/** Strokes one pixel wide that differ in colour alone: red letters on blue. */
function createStripes(side: number): Uint8Array {
  const pixels = new Uint8Array(side * side * 3)
  for (let index = 0; index < side * side; index += 1) {
    pixels[index * 3 + (index % 3 === 0 ? 0 : 2)] = 200
  }
  return pixels
}

test.each([
  ['png', 0],
  ['webp', 4],
  ['jpeg', 40],
  ['avif', 40],
] as const)('%s keeps colour of one pixel to within %d of 255', async (format, tolerance) => {
  const side = 96
  const pixels = createStripes(side)
  const { bytes } = await encodeImage(pixels, { width: side, height: side }, format)
  const decoded = await sharp(bytes).removeAlpha().raw().toBuffer()
  const differences = decoded.map((value, index) => Math.abs(value - pixels[index]!))
  expect(decoded).toHaveLength(pixels.length)
  expect(Math.max(...differences)).toBeLessThanOrEqual(tolerance)
})
