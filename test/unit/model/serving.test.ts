import { expect, test } from 'vitest'

import { nearestSize, servingSchema, sizeProblem } from '../../../gpu-worker/model/serving.ts'

const { size: PUBLISHED } = servingSchema.parse({})

test.each([
  ['1024x1024', '1024x1024'],
  ['1728x960', '1728x960'],
  ['512x512', '1024x1024'],
  ['800x608', '1344x1024'],
  ['1376x2048', '1376x2048'],
  // Four times as wide as high is more than the sides on offer allow.
  ['2048x512', '2048x1024'],
  ['512x2048', '1024x2048'],
])('a picture of %s is made anew at %s', (own, expected) => {
  const [width = 0, height = 0] = own.split('x').map(Number)
  const fitted = nearestSize({ width, height }, PUBLISHED)
  expect(`${fitted.width}x${fitted.height}`).toBe(expected)
})

test.each([
  ['as published', PUBLISHED],
  [
    'with an area below the product of the sides',
    { ...PUBLISHED, minSide: 64, maxPixels: 300_000 },
  ],
  ['with sides off the grid', { ...PUBLISHED, minSide: 100, maxSide: 1_000, multipleOf: 64 }],
])('every size has one on offer: %s', (_name, rules) => {
  for (let width = 32; width <= 4_096; width += 96) {
    for (let height = 32; height <= 4_096; height += 160) {
      const fitted = nearestSize({ width, height }, rules)
      expect(sizeProblem(fitted, rules), `${width}x${height}`).toBeNull()
    }
  }
})
