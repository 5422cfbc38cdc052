/** Money in millionths of a US dollar. One image at list price is 15,000. */
export type Micros = bigint & { readonly unit: 'micros' }

/** Names a bigint as micros. */
export function micros(amount: bigint | number): Micros {
  return BigInt(amount) as Micros
}

/**
 * The price of a quantity: `priceMicros` per `perUnits`, rounded half up, once. The only rounding there is.
 *
 * @throws RangeError when quantity or price is negative or `perUnits` not positive
 */
export function priceOf(priceMicros: bigint, perUnits: bigint, quantity: bigint): Micros {
  if (priceMicros < 0n || perUnits <= 0n || quantity < 0n) {
    throw new RangeError('a price needs priceMicros >= 0, perUnits > 0 and quantity >= 0')
  }
  return micros((2n * priceMicros * quantity + perUnits) / (2n * perUnits))
}

/** US dollars with six digits: 15000n is `0.015000`. */
export function formatUsd(amount: bigint): string {
  const sign = amount < 0n ? '-' : ''
  const absolute = amount < 0n ? -amount : amount
  const fraction = (absolute % 1_000_000n).toString().padStart(6, '0')
  return `${sign}${absolute / 1_000_000n}.${fraction}`
}

/** Reads US dollars as they are written here: `0.015` is 15000n. Null for anything else, or more than six digits. */
export function parseUsd(text: string): Micros | null {
  const found = /^(-?)(\d{1,12})(?:\.(\d{1,6}))?$/.exec(text)
  if (!found) return null
  const [, sign = '', whole = '', fraction = ''] = found
  const amount = BigInt(whole) * 1_000_000n + BigInt(fraction.padEnd(6, '0'))
  return micros(sign === '-' ? -amount : amount)
}
