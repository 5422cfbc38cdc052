import fc from 'fast-check'
import sharp from 'sharp'
import { describe, expect, test } from 'vitest'
import { readPictureHeader } from '../../../edge/picture-header.ts'

function drawn(width: number, height: number) {
  return sharp({ create: { width, height, channels: 3, background: '#36c' } })
}

const FORMATS = {
  png: (width: number, height: number) => drawn(width, height).png(),
  jpeg: (width: number, height: number) => drawn(width, height).jpeg(),
  'progressive jpeg': (width: number, height: number) =>
    drawn(width, height).jpeg({ progressive: true }),
  'webp with loss': (width: number, height: number) => drawn(width, height).webp(),
  'webp without loss': (width: number, height: number) =>
    drawn(width, height).webp({ lossless: true }),
  'webp with metadata': (width: number, height: number) =>
    drawn(width, height)
      .webp()
      .withExif({ IFD0: { Artist: 'x' } }),
}

describe.each(Object.entries(FORMATS))('%s', (name, draw) => {
  test.each([
    [16, 16],
    [257, 1025],
    [1, 3000],
  ])('of %i x %i is known by its first bytes', async (width, height) => {
    const bytes = await draw(width, height).toBuffer()
    const format = name.replace(/^progressive /, '').split(' ')[0]
    expect(readPictureHeader(bytes)).toEqual({ format, width, height })
  })

  test('cut anywhere gives its size or nothing', async () => {
    const bytes = await draw(40, 30).toBuffer()
    for (let length = 0; length < Math.min(bytes.length, 600); length++) {
      const header = readPictureHeader(bytes.subarray(0, length))
      if (header !== null) expect([header.width, header.height]).toEqual([40, 30])
    }
  })
})

test('every pixel size that sharp can write is read back', async () => {
  const side = fc.integer({ min: 1, max: 400 })
  const format = fc.constantFrom('png' as const, 'jpeg' as const, 'webp' as const)
  await fc.assert(
    fc.asyncProperty(side, side, format, async (width, height, to) => {
      const bytes = await drawn(width, height).toFormat(to).toBuffer()
      expect(readPictureHeader(bytes)).toEqual({ format: to, width, height })
    }),
    { numRuns: 30 },
  )
})

test.each([1, 2, 3, 4, 5, 6, 7, 8])(
  'a photo with orientation %i is measured as it is seen',
  async (orientation) => {
    const bytes = await drawn(30, 20).jpeg().withMetadata({ orientation }).toBuffer()
    const { autoOrient } = await sharp(bytes).metadata()
    expect(readPictureHeader(bytes)).toEqual({ format: 'jpeg', ...autoOrient })
  },
)

test('a preview inside a photo is not taken for the photo', async () => {
  const preview = await drawn(8, 8).jpeg().toBuffer()
  const photo = await drawn(640, 480).jpeg().toBuffer()
  const segment = Buffer.concat([Buffer.from([0xff, 0xe2, 0, 0]), preview])
  segment.writeUInt16BE(preview.length + 2, 2)
  const bytes = Buffer.concat([photo.subarray(0, 2), segment, photo.subarray(2)])
  expect(readPictureHeader(bytes)).toEqual({ format: 'jpeg', width: 640, height: 480 })
})

test.each([
  ['nothing', Buffer.alloc(0)],
  ['text', Buffer.from('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')],
  ['a GIF', Buffer.from('GIF89a\x10\0\x10\0\0\0\0;', 'latin1')],
  ['a RIFF file that is no WebP', Buffer.from('RIFF\x10\0\0\0WAVEfmt aaaaaaaaaaaaaa', 'latin1')],
  ['a JPEG of fill bytes', Buffer.concat([Buffer.from([0xff, 0xd8]), Buffer.alloc(100_000, 0xff)])],
  [
    'a JPEG of empty segments',
    Buffer.concat([
      Buffer.from([0xff, 0xd8]),
      Buffer.alloc(100_000, Buffer.from([0xff, 0xe0, 0, 0])),
    ]),
  ],
])('%s is no picture', (_, bytes) => {
  expect(readPictureHeader(bytes)).toBe(null)
})

test('no bytes make it throw', () => {
  const heads = fc.constantFrom(
    '\x89PNG\r\n\x1a\n\0\0\0\rIHDR',
    '\xff\xd8\xff\xe1',
    'RIFF\0\0\0\0WEBPVP8X',
    'RIFF\0\0\0\0WEBPVP8L',
  )
  fc.assert(
    fc.property(heads, fc.uint8Array({ maxLength: 200 }), (head, rest) => {
      readPictureHeader(Buffer.concat([Buffer.from(head, 'latin1'), rest]))
    }),
  )
})
