import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { GLM_IMAGE_SIZES, checkSize } from '../../../edge/catalogue.ts'

describe('sizes of GLM-Image', () => {
  test('all recommended ones are offered, also the two below the smallest side', () => {
    for (const name of GLM_IMAGE_SIZES.recommended) {
      const [width, height] = name.split('x').map(Number)
      expect(checkSize(GLM_IMAGE_SIZES, name)).toEqual({ ok: true, width, height })
    }
    expect(GLM_IMAGE_SIZES.recommended).toContain('1728x960')
    expect(GLM_IMAGE_SIZES.recommended).toContain('960x1728')
  })

  test.each([
    ['1024x1024', true],
    ['2048x2048', true],
    ['1024x2048', true],
    ['960x1024', false],
    ['1728x992', false],
    ['1040x1040', false],
    ['2080x1024', false],
    ['992x992', false],
  ])('%s: %s', (size, isOffered) => {
    expect(checkSize(GLM_IMAGE_SIZES, size).ok).toBe(isOffered)
  })

  test.each([
    '',
    '1280',
    '1280X1280',
    '1280x1280x1',
    ' 1280x1280',
    '01280x1280',
    '-1x1',
    '1e3x1e3',
    '1280×1280',
  ])('the text "%s" is refused with the form that is asked for', (size) => {
    const verdict = checkSize(GLM_IMAGE_SIZES, size)
    expect(verdict.ok).toBe(false)
    expect(verdict.ok ? '' : verdict.message).toContain('1280x1280')
  })

  test('a refused size names every rule', () => {
    const verdict = checkSize(GLM_IMAGE_SIZES, '1000x1000')
    expect(verdict.ok ? '' : verdict.message).toMatch(
      /1000x1000.*1024.*2048.*32.*4194304.*1728x960/,
    )
  })

  test('whatever is accepted keeps the rules', () => {
    const side = fc.integer({ min: 1, max: 3_000 })
    fc.assert(
      fc.property(side, side, (width, height) => {
        const verdict = checkSize({ ...GLM_IMAGE_SIZES, recommended: [] }, `${width}x${height}`)
        const isInside = [width, height].every(
          (value) => value >= 1024 && value <= 2048 && value % 32 === 0,
        )
        expect(verdict.ok).toBe(isInside && width * height <= 2 ** 22)
      }),
    )
  })
})
