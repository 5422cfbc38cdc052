import sharp from 'sharp'
import type { Sharp } from 'sharp'

import type { Pixels } from './resample.ts'
import type { Size } from './source-grid.ts'

/** A large camera's picture; 192 MB once it is decoded. */
const MAX_PIXELS = 64_000_000
/** What shows through where a picture is transparent. */
const BACKGROUND = '#ffffff'

/** A file that is no picture, a broken one, or too large a one; the message completes "images[0] ...". */
export class ImageFileError extends Error {
  constructor(message: string, options?: { cause?: unknown }) {
    super(message, options)
    this.name = 'ImageFileError'
  }
}

/**
 * The size at which a picture is seen, without decoding it: a file of a few bytes may claim any number of pixels.
 *
 * @param bytes PNG, JPEG or WebP
 * @throws ImageFileError
 */
export async function readImageSize(bytes: Uint8Array): Promise<Size> {
  if (!hasKnownSignature(bytes)) {
    throw new ImageFileError('must be a PNG, JPEG or WebP file')
  }
  const { autoOrient } = await refuseBroken(openFile(bytes).metadata())
  const { width, height } = autoOrient
  if (width * height > MAX_PIXELS) {
    throw new ImageFileError(`must have at most ${MAX_PIXELS} pixels, not ${width} x ${height}`)
  }
  return { width, height }
}

/**
 * Decodes a picture as it is meant to be seen: turned as its EXIF data says, colours in sRGB, transparency on white,
 * and of several frames the first.
 *
 * @param bytes a file whose size `readImageSize` gave
 * @throws ImageFileError when it is cut off or broken
 */
export async function decodeImage(bytes: Uint8Array): Promise<Pixels> {
  const { data, info } = await refuseBroken(
    openFile(bytes)
      .autoOrient()
      .flatten({ background: BACKGROUND })
      .toColourspace('srgb')
      .raw({ depth: 'uchar' })
      .toBuffer({ resolveWithObject: true }),
  )
  const { width, height, channels } = info
  if (channels !== 3) throw new Error(`a picture in sRGB was decoded to ${channels} channels`)
  return { data: new Uint8Array(data.buffer, data.byteOffset, data.length), width, height }
}

function openFile(bytes: Uint8Array): Sharp {
  // The first page is the default. Warnings are about details that every viewer overlooks.
  return sharp(bytes, { failOn: 'error', limitInputPixels: MAX_PIXELS })
}

/** How files of these three begin; of WebP the size of the file stands between. */
const SIGNATURES = [/^89504e470d0a1a0a/, /^ffd8ff/, /^52494646.{8}57454250/]

/** Only these three decoders are reached: libvips would also follow what an SVG or a PDF asks for. */
function hasKnownSignature(bytes: Uint8Array): boolean {
  const head = Buffer.from(bytes.subarray(0, 12)).toString('hex')
  return SIGNATURES.some((signature) => signature.test(head))
}

async function refuseBroken<Result>(work: Promise<Result>): Promise<Result> {
  try {
    return await work
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause)
    throw new ImageFileError(`cannot be read: ${reason}`, { cause })
  }
}
