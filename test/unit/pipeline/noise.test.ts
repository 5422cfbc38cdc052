import { createHash } from 'node:crypto'

import { expect, test } from 'vitest'

import { createNoise, normalQuantile, philox } from '../../../gpu-worker/pipeline/noise.ts'

test('the generator gives the published vectors of Philox4x32-10', () => {
  const hex = (words: readonly number[]) => words.map((word) => word.toString(16).padStart(8, '0'))
  expect(hex(philox([0, 0, 0, 0], [0, 0]))).toEqual([
    '6627e8d5',
    'e169c58d',
    'bc57ac4c',
    '9b00dbd8',
  ])
  const ones = 0xffffffff
  expect(hex(philox([ones, ones, ones, ones], [ones, ones]))).toEqual([
    '408f276d',
    '41c83b0e',
    'a20bc7c6',
    '6d5451fd',
  ])
  expect(
    hex(philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0])),
  ).toEqual(['d16cfe09', '94fdcceb', '5001e420', '24126ea1'])
})

test.each([
  [0.5, 0],
  [0.975, 1.959963984540054],
  [0.025, -1.959963984540054],
  [0.001, -3.090232306167813],
  [1e-9, -5.997807015007686],
  [1e-15, -7.941345326170997],
])('the normal quantile of %d is %d', (p, expected) => {
  expect(normalQuantile(p)).toBeCloseTo(expected, 12)
})

test('noise has the moments of a standard normal', () => {
  const noise = createNoise(1, 200_000)
  const moment = (power: number) =>
    noise.reduce((sum, value) => sum + value ** power, 0) / noise.length
  // Five standard errors of each estimate.
  expect(Math.abs(moment(1))).toBeLessThan(0.012)
  expect(Math.abs(moment(2) - 1)).toBeLessThan(0.016)
  expect(Math.abs(moment(3))).toBeLessThan(0.045)
  expect(Math.abs(moment(4) - 3)).toBeLessThan(0.11)
})

test('the bits of a seed never change, and a longer noise starts with the shorter one', () => {
  const noise = createNoise(7, 1000)
  const digest = createHash('sha256').update(new Uint8Array(noise.buffer)).digest('hex')
  expect(digest).toBe('68d7620fe4c6e8faad0cc858cf051ecfc8a2ffcd977db441231215042e50f1ec')
  expect([...createNoise(7, 10)]).toEqual([...noise.subarray(0, 10)])
  expect([...createNoise(8, 10)]).not.toEqual([...noise.subarray(0, 10)])
})
