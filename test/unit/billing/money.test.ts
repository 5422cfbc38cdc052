import fc from 'fast-check'
import { expect, test } from 'vitest'
import { formatUsd, priceOf } from '../../../billing/money.ts'

test('a price is rounded half up, once, and never by more than half a micro', () => {
  expect(priceOf(15_000n, 1n, 10n)).toBe(150_000n)
  expect(priceOf(1n, 2n, 1n)).toBe(1n)
  expect(priceOf(1n, 3n, 1n)).toBe(0n)
  const amount = fc.bigInt({ min: 0n, max: 10n ** 15n })
  const units = fc.bigInt({ min: 1n, max: 10n ** 7n })
  fc.assert(
    fc.property(amount, units, amount, (price, perUnits, quantity) => {
      const error = 2n * (priceOf(price, perUnits, quantity) * perUnits - price * quantity)
      expect(error <= perUnits && error > -perUnits).toBe(true)
    }),
  )
})

test('a negative price, quantity or no unit is refused', () => {
  expect(() => priceOf(-1n, 1n, 1n)).toThrow(RangeError)
  expect(() => priceOf(1n, 0n, 1n)).toThrow(RangeError)
  expect(() => priceOf(1n, 1n, -1n)).toThrow(RangeError)
})

test('dollars keep all six digits and the sign, beyond what a number can hold', () => {
  expect(formatUsd(15_000n)).toBe('0.015000')
  expect(formatUsd(-15_000n)).toBe('-0.015000')
  expect(formatUsd(9_223_372_036_854_775_807n)).toBe('9223372036854.775807')
  expect(formatUsd(0n)).toBe('0.000000')
})
