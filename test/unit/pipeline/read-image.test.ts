import sharp from 'sharp'
import { describe, expect, test } from 'vitest'

import { decodeImage, readImageSize } from '../../../gpu-worker/pipeline/read-image.ts'

/** Red left half, blue right half. */
function halves(width: number, height: number) {
  const data = new Uint8Array(width * height * 3)
  for (let pixel = 0; pixel < width * height; pixel += 1) {
    data[pixel * 3 + (pixel % width < width / 2 ? 0 : 2)] = 200
  }
  return sharp(data, { raw: { width, height, channels: 3 } })
}

const pixelAt = ({ data, width }: { data: Uint8Array; width: number }, x: number, y: number) => [
  ...data.subarray((y * width + x) * 3, (y * width + x + 1) * 3),
]

test.each(['png', 'jpeg', 'webp'] as const)('a %s file is read as RGB', async (format) => {
  const file = await halves(40, 20).toFormat(format).toBuffer()
  expect(await readImageSize(file)).toEqual({ width: 40, height: 20 })
  const pixels = await decodeImage(file)
  expect(pixels).toMatchObject({ width: 40, height: 20 })
  expect(pixels.data).toHaveLength(40 * 20 * 3)
  const [red = 0, , blue = 255] = pixelAt(pixels, 4, 10)
  expect(red).toBeGreaterThan(190)
  expect(blue).toBeLessThan(20)
})

test.each<[string, () => Promise<Buffer>]>([
  ['grey', () => halves(40, 20).greyscale().toColourspace('b-w').png().toBuffer()],
  ['a palette', () => halves(40, 20).png({ palette: true }).toBuffer()],
  ['16 bits per channel', () => halves(40, 20).toColourspace('rgb16').png().toBuffer()],
  ['the colours of print', () => halves(40, 20).toColourspace('cmyk').jpeg().toBuffer()],
])('a file in %s becomes three channels of 8 bits', async (_name, make) => {
  const pixels = await decodeImage(await make())
  expect(pixels.data).toHaveLength(40 * 20 * 3)
})

test('a picture is turned as its EXIF data says, and its size is that of what is seen', async () => {
  // Orientation 6: the left edge of the stored picture is the top of the one that is seen.
  const file = await halves(40, 20).withMetadata({ orientation: 6 }).jpeg().toBuffer()
  expect(await readImageSize(file)).toEqual({ width: 20, height: 40 })
  const pixels = await decodeImage(file)
  expect(pixels).toMatchObject({ width: 20, height: 40 })
  expect(pixelAt(pixels, 10, 4)[0]).toBeGreaterThan(190)
  expect(pixelAt(pixels, 10, 36)[2]).toBeGreaterThan(190)
})

test('what is transparent shows white', async () => {
  const file = await sharp({
    create: { width: 20, height: 20, channels: 4, background: { r: 200, g: 0, b: 0, alpha: 0 } },
  })
    .png()
    .toBuffer()
  expect(pixelAt(await decodeImage(file), 5, 5)).toEqual([255, 255, 255])
})

test('of an animation the first frame is read', async () => {
  const frame = (red: number) => ({
    create: { width: 20, height: 20, channels: 3 as const, background: { r: red, g: 0, b: 0 } },
  })
  const frames = [await sharp(frame(200)).png().toBuffer(), await sharp(frame(0)).png().toBuffer()]
  const file = await sharp(frames, { join: { animated: true } })
    .webp({ lossless: true })
    .toBuffer()
  expect((await sharp(file).metadata()).pages).toBe(2)
  expect(await readImageSize(file)).toEqual({ width: 20, height: 20 })
  expect(pixelAt(await decodeImage(file), 5, 5)).toEqual([200, 0, 0])
})

describe('what cannot be used is refused', () => {
  /** A PNG of no pixels that claims a size. */
  async function claim(width: number, height: number): Promise<Uint8Array> {
    const file = Buffer.from(await halves(40, 20).png().toBuffer())
    file.writeUInt32BE(width, 16)
    file.writeUInt32BE(height, 20)
    file.writeUInt32BE(crc32(file.subarray(12, 29)), 29)
    return file
  }

  test('more pixels than a camera takes, before one is decoded', async () => {
    expect(await readImageSize(await claim(8_000, 8_000))).toEqual({ width: 8_000, height: 8_000 })
    for (const [width, height] of [
      [8_001, 8_000],
      [100_000, 100_000],
    ] as const) {
      const file = await claim(width, height)
      expect(file.length).toBeLessThan(1_000)
      await expect(readImageSize(file)).rejects.toThrow(/pixel/)
      await expect(decodeImage(file)).rejects.toThrow(/pixel/)
    }
  })

  test.each<[string, () => Promise<Uint8Array>]>([
    ['nothing', async () => new Uint8Array(0)],
    ['text', async () => Buffer.from('not a picture')],
    ['an SVG', async () => Buffer.from('<svg xmlns="http://www.w3.org/2000/svg"/>')],
    ['a GIF', () => halves(40, 20).gif().toBuffer()],
    ['a TIFF', () => halves(40, 20).tiff().toBuffer()],
    ['an AVIF', () => halves(40, 20).avif().toBuffer()],
  ])('%s', async (_name, make) => {
    await expect(readImageSize(await make())).rejects.toThrow('must be a PNG, JPEG or WebP file')
  })

  test.each(['png', 'jpeg', 'webp'] as const)('a %s that is cut off', async (format) => {
    const data = new Uint8Array(64 * 64 * 3).map((_, index) => (index * index * 31) % 251)
    const file = await sharp(data, { raw: { width: 64, height: 64, channels: 3 } })
      .toFormat(format)
      .toBuffer()
    const half = file.subarray(0, Math.floor(file.length / 2))
    await expect(readImageSize(half).then(() => decodeImage(half))).rejects.toThrow(
      /^cannot be read: /,
    )
  })
})

/** The checksum of a PNG chunk. */
function crc32(bytes: Uint8Array): number {
  let crc = 0xffffffff
  for (const byte of bytes) {
    crc ^= byte
    for (let bit = 0; bit < 8; bit += 1) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0)
  }
  return (crc ^ 0xffffffff) >>> 0
}
