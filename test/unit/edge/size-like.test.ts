import fc from 'fast-check'
import { expect, test } from 'vitest'
import { GLM_IMAGE_SIZES, checkSize, sizeLike } from '../../../edge/catalogue.ts'
import { nearestSize, servingSchema } from '../../../gpu-worker/model/serving.ts'
import { SIZE_OF_EACH_CLASS } from '../../../edge/admission.ts'
import { sizeClassOf } from '../../../billing/price.ts'

const { size: GLM_IMAGE_SIZES_OF_ENGINE } = servingSchema.parse({})

test.each([
  ['1024x1024', '1024x1024'],
  ['960x1728', '960x1728'],
  ['1040x1040', '1056x1056'],
  ['600x800', '1024x1376'],
  ['400x400', '1024x1024'],
  ['3000x2000', '2048x1376'],
  ['4096x4096', '2048x2048'],
  ['4000x1000', '2048x1024'],
])('a picture of %s is drawn anew in %s', (picture, size) => {
  const [width = 0, height = 0] = picture.split('x').map(Number)
  expect(sizeLike(GLM_IMAGE_SIZES, { width, height })).toBe(size)
})

const small = {
  default: '64x64',
  recommended: ['64x64'],
  minSide: 32,
  maxSide: 128,
  multipleOf: 32,
  maxPixels: 16_384,
}
const tight = { ...GLM_IMAGE_SIZES, minSide: 256, maxPixels: 700_000 }

test.each([GLM_IMAGE_SIZES, small, tight])(
  'every picture that is taken in has a size that is offered',
  (rules) => {
    const shorter = fc.integer({ min: 16, max: 8_000 })
    const ratio = fc.double({ min: 1, max: 4, noNaN: true })
    fc.assert(
      fc.property(shorter, ratio, fc.boolean(), (side, times, isWide) => {
        const longer = Math.min(16_384, Math.floor(side * times))
        const picture = isWide ? { width: longer, height: side } : { width: side, height: longer }
        expect(checkSize(rules, sizeLike(rules, picture))).toMatchObject({ ok: true })
      }),
      { numRuns: 2_000 },
    )
  },
)

test('of a picture on the grid of the model the gateway and the engine say the same', () => {
  for (let width = 512; width <= 2_048; width += 32) {
    for (let height = 512; height <= 2_048; height += 32) {
      const engine = nearestSize({ width, height }, GLM_IMAGE_SIZES_OF_ENGINE)
      expect(sizeLike(GLM_IMAGE_SIZES, { width, height })).toBe(`${engine.width}x${engine.height}`)
    }
  }
})

test('the cheapest price is looked for in every class of sizes', () => {
  const classes = SIZE_OF_EACH_CLASS.map(({ width, height }) => sizeClassOf(width, height))
  expect(classes).toEqual(['small', 'medium', 'large'])
})
