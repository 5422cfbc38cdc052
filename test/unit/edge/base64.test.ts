import fc from 'fast-check'
import { expect, test } from 'vitest'
import { decodeBase64 } from '../../../edge/base64.ts'

test('all bytes come back, plain, in lines, without padding and as a data: URL', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 70_000, size: 'max' }), (bytes) => {
      const text = Buffer.from(bytes).toString('base64')
      const lines = text.replaceAll(/(.{76})/g, '$1\r\n')
      const bare = text.replace(/=+$/, '')
      for (const form of [
        text,
        lines,
        bare,
        `data:image/png;base64,${text}`,
        `data:image/webp;name=a.webp;base64,${text}`,
      ]) {
        expect(Buffer.from(decodeBase64(form) ?? []).equals(Buffer.from(bytes))).toBe(true)
      }
    }),
    { numRuns: 20 },
  )
})

test.each([
  'https://example.com/a.png',
  'file:///etc/passwd',
  'data:image/png,plain',
  'a',
  '****',
  'YQ==YQ==',
  'data:image/svg+xml;utf8,<svg/>',
])('%s is not base 64', (text) => {
  expect(decodeBase64(text)).toBe(null)
})
