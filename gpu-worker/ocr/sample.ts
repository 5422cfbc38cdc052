import type { Pixels } from '../pipeline/resample.ts'
import type { TurnedBox } from './geometry.ts'

/** Samples per output pixel and direction at most; where a line is shrunk further, some aliasing is left. */
const MAX_TAPS = 8

/**
 * A turned part of a picture, drawn upright into a tensor as the text models take it: blue, green, red planes of
 * values in -1..1.
 *
 * Bilinear; where the part is shrunk, the mean of as many samples as pixels fall together. Outside the picture its
 * border goes on.
 *
 * @param size of the part in the tensor; what is left of `paddedWidth` is 0, the grey in the middle
 * @returns float32 [3, height, paddedWidth]
 */
export function sampleBox(
  pixels: Pixels,
  box: TurnedBox,
  size: { width: number; height: number; paddedWidth: number },
): Float32Array {
  const { width, height, paddedWidth } = size
  const out = new Float32Array(3 * height * paddedWidth)
  const [cos, sin] = [Math.cos(box.angle), Math.sin(box.angle)]
  const [stepU, stepV] = [box.width / width, box.height / height]
  const [tapsU, tapsV] = [tapsFor(stepU), tapsFor(stepV)]
  const sum = new Float64Array(3)
  for (let row = 0; row < height; row += 1) {
    for (let column = 0; column < width; column += 1) {
      sum.fill(0)
      for (let i = 0; i < tapsV; i += 1) {
        const v = (row + (i + 0.5) / tapsV) * stepV - box.height / 2
        for (let k = 0; k < tapsU; k += 1) {
          const u = (column + (k + 0.5) / tapsU) * stepU - box.width / 2
          // Pixel centres lie at halves, the boxes' coordinates on whole numbers count them from 0.
          addSample(pixels, box.x + u * cos - v * sin, box.y + u * sin + v * cos, sum)
        }
      }
      for (let channel = 0; channel < 3; channel += 1) {
        const mean = (sum[2 - channel] ?? 0) / (tapsU * tapsV)
        out[(channel * height + row) * paddedWidth + column] = mean / 127.5 - 1
      }
    }
  }
  return out
}

function tapsFor(step: number): number {
  return Math.min(MAX_TAPS, Math.max(1, Math.round(step)))
}

function addSample({ data, width, height }: Pixels, x: number, y: number, sum: Float64Array): void {
  const [left, top] = [Math.floor(x), Math.floor(y)]
  const [fx, fy] = [x - left, y - top]
  const x0 = Math.min(width - 1, Math.max(0, left))
  const x1 = Math.min(width - 1, Math.max(0, left + 1))
  const y0 = Math.min(height - 1, Math.max(0, top)) * width
  const y1 = Math.min(height - 1, Math.max(0, top + 1)) * width
  for (let channel = 0; channel < 3; channel += 1) {
    const upper =
      (data[(y0 + x0) * 3 + channel] ?? 0) * (1 - fx) + (data[(y0 + x1) * 3 + channel] ?? 0) * fx
    const lower =
      (data[(y1 + x0) * 3 + channel] ?? 0) * (1 - fx) + (data[(y1 + x1) * 3 + channel] ?? 0) * fx
    sum[channel] = (sum[channel] ?? 0) + upper * (1 - fy) + lower * fy
  }
}
