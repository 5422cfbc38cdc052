import type { InputImage } from '../db/input-images.ts'

/** What the first bytes of a picture say of it. */
export type PictureHeader = Pick<InputImage, 'format' | 'width' | 'height'>

/**
 * Reads type and size of a PNG, JPEG or WebP from its bytes, whatever its name says; nothing is decoded. Photos are
 * measured as they are seen, turned by the orientation in their Exif data.
 *
 * @returns null when the bytes begin as none of the three, or end before they tell the size
 */
export function readPictureHeader(bytes: Uint8Array): PictureHeader | null {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  try {
    return readPng(view) ?? readJpeg(view) ?? readWebp(view)
  } catch (error) {
    // A read beyond the end: the bytes are cut short.
    if (error instanceof RangeError) return null
    throw error
  }
}

/** @source PNG, third edition, 5.2 and 11.2.1 */
function readPng(view: DataView): PictureHeader | null {
  if (view.getUint32(0) !== 0x89504e47 || view.getUint32(4) !== 0x0d0a1a0a) return null
  if (textAt(view, 12, 4) !== 'IHDR') return null
  return { format: 'png', width: view.getUint32(16), height: view.getUint32(20) }
}

/**
 * Walks the segments up to the frame header; lengths are those that the segments state, so that an embedded
 * preview is stepped over.
 *
 * @source ITU-T T.81, B.1 and B.2.2
 */
function readJpeg(view: DataView): PictureHeader | null {
  if (view.getUint16(0) !== 0xffd8) return null
  let isTurned = false
  for (let at = 2; view.getUint8(at) === 0xff;) {
    const marker = view.getUint8(at + 1)
    // Before a marker any number of fill bytes may stand.
    if (marker === 0xff) {
      at += 1
      continue
    }
    if (isFrameHeader(marker)) {
      const height = view.getUint16(at + 5)
      const width = view.getUint16(at + 7)
      return isTurned
        ? { format: 'jpeg', width: height, height: width }
        : { format: 'jpeg', width, height }
    }
    // After them come no more headers: the scan, or the end of the picture.
    if (marker === 0xda || marker === 0xd9) return null
    if (marker === 0xe1) isTurned = isTurnedExif(view, at + 4) ?? isTurned
    at += 2 + Math.max(2, view.getUint16(at + 2))
  }
  return null
}

/** SOF0 to SOF15; the three between them define tables. */
function isFrameHeader(marker: number): boolean {
  return marker >= 0xc0 && marker <= 0xcf && marker !== 0xc4 && marker !== 0xc8 && marker !== 0xcc
}

/**
 * Whether Exif data that begins here says that the picture lies on its side; null where it says nothing.
 *
 * @source Exif 2.3, 4.6.4: tag 274, values 5 to 8
 */
function isTurnedExif(view: DataView, at: number): boolean | null {
  if (textAt(view, at, 6) !== 'Exif\0\0') return null
  const tiff = at + 6
  const isLittle = view.getUint16(tiff) === 0x4949
  const directory = tiff + view.getUint32(tiff + 4, isLittle)
  const count = view.getUint16(directory, isLittle)
  for (let index = 0; index < count; index++) {
    const entry = directory + 2 + index * 12
    if (view.getUint16(entry, isLittle) !== 274) continue
    const orientation = view.getUint16(entry + 8, isLittle)
    return orientation >= 5 && orientation <= 8
  }
  return null
}

/** @source RFC 9649: VP8X 2.7, VP8L 3.4; RFC 6386, 9.1 */
function readWebp(view: DataView): PictureHeader | null {
  if (textAt(view, 0, 4) !== 'RIFF' || textAt(view, 8, 4) !== 'WEBP') return null
  switch (textAt(view, 12, 4)) {
    case 'VP8X':
      return { format: 'webp', width: 1 + uint24(view, 24), height: 1 + uint24(view, 27) }
    case 'VP8L': {
      if (view.getUint8(20) !== 0x2f) return null
      const bits = view.getUint32(21, true)
      return { format: 'webp', width: 1 + (bits & 0x3fff), height: 1 + ((bits >>> 14) & 0x3fff) }
    }
    case 'VP8 ': {
      if (uint24(view, 23) !== 0x2a019d) return null
      const width = view.getUint16(26, true) & 0x3fff
      return { format: 'webp', width, height: view.getUint16(28, true) & 0x3fff }
    }
    default:
      return null
  }
}

function uint24(view: DataView, at: number): number {
  return view.getUint16(at, true) | (view.getUint8(at + 2) << 16)
}

function textAt(view: DataView, at: number, length: number): string {
  let text = ''
  for (let index = 0; index < length; index++)
    text += String.fromCharCode(view.getUint8(at + index))
  return text
}
