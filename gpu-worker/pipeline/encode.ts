import { createHash } from 'node:crypto'

import sharp from 'sharp'
import type { Sharp } from 'sharp'

export const IMAGE_FORMATS = ['png', 'webp', 'jpeg', 'avif'] as const
export type ImageFormat = (typeof IMAGE_FORMATS)[number]

/** Small text has to survive: colour is not subsampled and quality stays above the libraries' defaults. */
const LOSSY_QUALITY = { jpeg: 92, avif: 70 }
/** How far from lossless, 100 being lossless: colours are off by 2 of 255 at most, in a third of the bytes of PNG. */
const NEAR_LOSSLESS_QUALITY = 60

/**
 * Encodes pixels. The same pixels and format give the same bytes on the same version of libvips.
 *
 * @param pixels uint8 RGB, row-major [height, width, 3]
 * @returns the file, its media type and the sha256 of the file in hex
 */
export async function encodeImage(
  pixels: Uint8Array,
  size: { width: number; height: number },
  format: ImageFormat,
): Promise<{ bytes: Uint8Array; contentType: string; sha256: string }> {
  const raw = sharp(pixels, { raw: { ...size, channels: 3 } })
  const bytes = await encodeAs(raw, format)
  const sha256 = createHash('sha256').update(bytes).digest('hex')
  return { bytes, contentType: `image/${format}`, sha256 }
}

/**
 * A picture file in another form: its pixels are taken as they are and encoded as ours would be.
 *
 * @throws an Error when the file is no picture, or not of this size
 */
export async function encodeFile(
  file: Uint8Array,
  size: { width: number; height: number },
  format: ImageFormat,
): Promise<{ bytes: Uint8Array; contentType: string; sha256: string }> {
  const { data, info } = await sharp(file, { limitInputPixels: size.width * size.height })
    .flatten({ background: '#ffffff' })
    .toColourspace('srgb')
    .raw()
    .toBuffer({ resolveWithObject: true })
  if (info.width !== size.width || info.height !== size.height) {
    throw new Error(`it is ${info.width}x${info.height}, not ${size.width}x${size.height}`)
  }
  if (info.channels !== 3) throw new Error(`it has ${info.channels} channels, not 3`)
  return encodeImage(data, size, format)
}

/**
 * Values in 0..1 to bytes, rounded half to even as the reference does.
 *
 * @param planes float32 [3, height, width]
 * @returns uint8 [height, width, 3]
 */
export function toPixels(planes: Float32Array): Uint8Array {
  const area = planes.length / 3
  const pixels = new Uint8ClampedArray(planes.length)
  for (let channel = 0; channel < 3; channel += 1) {
    for (let index = 0; index < area; index += 1) {
      // A clamped array rounds half to even and saturates, by its definition.
      pixels[index * 3 + channel] = Math.fround((planes[channel * area + index] ?? 0) * 255)
    }
  }
  return new Uint8Array(pixels.buffer)
}

function encodeAs(raw: Sharp, format: ImageFormat): Promise<Buffer> {
  switch (format) {
    case 'png':
      return raw.png({ compressionLevel: 6 }).toBuffer()
    case 'webp':
      // The lossy form always halves the resolution of colour: small red letters on blue were off by 222 of 255.
      return raw.webp({ nearLossless: true, quality: NEAR_LOSSLESS_QUALITY }).toBuffer()
    case 'jpeg':
      return raw.jpeg({ quality: LOSSY_QUALITY.jpeg, chromaSubsampling: '4:4:4' }).toBuffer()
    case 'avif':
      // Effort 2: about a seventh of the default's time for files of about the same size.
      return raw
        .avif({ quality: LOSSY_QUALITY.avif, effort: 2, chromaSubsampling: '4:4:4' })
        .toBuffer()
  }
}
