/** A picture in memory: uint8 RGB, row-major [height, width, 3]. */
export interface Pixels {
  readonly data: Uint8Array
  readonly width: number
  readonly height: number
}

export type Kernel = keyof typeof KERNELS

/**
 * Resizes a picture the way the reference does, to the last bit: a kernel as wide as the reduction, weights in fixed
 * point, rows before columns, and bytes in between. A difference of one level would already change visual codes, and
 * libvips' own cubic differs by more.
 *
 * @returns `source` itself when it has the size already
 * @source Pillow, Resample.c, 8 bits per channel
 */
export function resizePixels(
  source: Pixels,
  size: { width: number; height: number },
  kernel: Kernel,
): Pixels {
  const { width, height } = size
  const across =
    width === source.width
      ? source
      : resizeRows(source, width, planSamples(source.width, width, kernel))
  if (height === across.height) return across
  return resizeColumns(across, height, planSamples(across.height, height, kernel))
}

const CHANNELS = 3
/** Fraction bits of a weight: 8 bits of a pixel and 2 of headroom remain in 32. */
const PRECISION_BITS = 22
const ONE = 2 ** PRECISION_BITS

/** How far each kernel reaches at scale 1, and its value at a distance. */
const KERNELS = {
  bicubic: { support: 2, valueAt: bicubicAt },
  lanczos: { support: 3, valueAt: lanczosAt },
} as const

function bicubicAt(distance: number): number {
  const a = -0.5
  const x = Math.abs(distance)
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0
}

function lanczosAt(distance: number): number {
  if (distance < -3 || distance >= 3) return 0
  return sinc(distance) * sinc(distance / 3)
}

function sinc(x: number): number {
  return x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI)
}

/** For each place of the result: where its samples start, how many there are, and their weights, `stride` apart. */
interface Samples {
  starts: Int32Array
  counts: Int32Array
  weights: Int32Array
  stride: number
}

function planSamples(from: number, to: number, kernel: Kernel): Samples {
  const { support, valueAt } = KERNELS[kernel]
  const scale = from / to
  const spread = Math.max(scale, 1)
  const reach = support * spread
  const stride = Math.ceil(reach) * 2 + 1
  const samples = {
    starts: new Int32Array(to),
    counts: new Int32Array(to),
    weights: new Int32Array(to * stride),
    stride,
  }
  for (let place = 0; place < to; place += 1) {
    const centre = (place + 0.5) * scale
    const start = Math.max(0, Math.trunc(centre - reach + 0.5))
    const count = Math.min(from, Math.trunc(centre + reach + 0.5)) - start
    const values = Array.from({ length: count }, (_, index) =>
      valueAt((index + start - centre + 0.5) * (1 / spread)),
    )
    const sum = values.reduce((total, value) => total + value, 0)
    samples.starts[place] = start
    samples.counts[place] = count
    values.forEach((value, index) => {
      const share = sum === 0 ? value : value / sum
      samples.weights[place * stride + index] = Math.trunc(share * ONE + (share < 0 ? -0.5 : 0.5))
    })
  }
  return samples
}

function resizeRows(source: Pixels, width: number, samples: Samples): Pixels {
  const { data, height } = source
  const result = new Uint8ClampedArray(width * height * CHANNELS)
  for (let y = 0; y < height; y += 1) {
    const row = y * source.width * CHANNELS
    for (let x = 0; x < width; x += 1) {
      addUp(data, result, {
        samples,
        place: x,
        first: row + (samples.starts[x] ?? 0) * CHANNELS,
        step: CHANNELS,
        target: (y * width + x) * CHANNELS,
      })
    }
  }
  return { data: new Uint8Array(result.buffer), width, height }
}

function resizeColumns(source: Pixels, height: number, samples: Samples): Pixels {
  const { data, width } = source
  const result = new Uint8ClampedArray(width * height * CHANNELS)
  for (let y = 0; y < height; y += 1) {
    const row = (samples.starts[y] ?? 0) * width * CHANNELS
    for (let x = 0; x < width; x += 1) {
      addUp(data, result, {
        samples,
        place: y,
        first: row + x * CHANNELS,
        step: width * CHANNELS,
        target: (y * width + x) * CHANNELS,
      })
    }
  }
  return { data: new Uint8Array(result.buffer), width, height }
}

/** One pixel of the result: the weighted sum of its samples, rounded, per channel. */
function addUp(
  data: Uint8Array,
  result: Uint8ClampedArray,
  at: { samples: Samples; place: number; first: number; step: number; target: number },
): void {
  const { samples, place, first, step, target } = at
  const { weights, stride } = samples
  const count = samples.counts[place] ?? 0
  const half = ONE / 2
  let red = half
  let green = half
  let blue = half
  for (let index = 0; index < count; index += 1) {
    const weight = weights[place * stride + index] ?? 0
    const pixel = first + index * step
    red += weight * (data[pixel] ?? 0)
    green += weight * (data[pixel + 1] ?? 0)
    blue += weight * (data[pixel + 2] ?? 0)
  }
  // A clamped array saturates, as the reference does.
  result[target] = red >> PRECISION_BITS
  result[target + 1] = green >> PRECISION_BITS
  result[target + 2] = blue >> PRECISION_BITS
}
