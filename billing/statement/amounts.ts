import { formatUsd } from '../money.ts'

/** Images and money of a group of usage lines; in micro-USD. */
export interface Sums {
  images: bigint
  /** At list price. */
  list: bigint
  discount: bigint
  /** List less discount. */
  net: bigint
  /** The part of net that promotional credit paid. */
  credit: bigint
}

/** The same as statements write it. `due` is net less credit. */
export interface Amounts {
  images: number
  list: string
  discount: string
  net: string
  credit: string
  due: string
}

export function noSums(): Sums {
  return { images: 0n, list: 0n, discount: 0n, net: 0n, credit: 0n }
}

/** Adds to the first of the two. */
export function addSums(total: Sums, part: Sums): void {
  total.images += part.images
  total.list += part.list
  total.discount += part.discount
  total.net += part.net
  total.credit += part.credit
}

export function toAmounts(sums: Sums): Amounts {
  return {
    images: Number(sums.images),
    list: formatUsd(sums.list),
    discount: formatUsd(sums.discount),
    net: formatUsd(sums.net),
    credit: formatUsd(sums.credit),
    due: formatUsd(sums.net - sums.credit),
  }
}

/** The micro-USD of an amount with six digits: the reverse of `formatUsd`. */
export function fromUsd(amount: string): bigint {
  return BigInt(amount.replace('.', ''))
}
