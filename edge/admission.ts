import { foreseeRefusal } from '../billing/foresee.ts'
import type { KeyPrincipal } from '../db/keys.ts'
import { MODEL } from './catalogue.ts'
import { QUALITY, checkOrder } from './check-order.ts'
import type { Deps } from './deps.ts'
import { ApiError } from './errors.ts'
import { toRefusalError } from './refusal.ts'
import type { RefusedCall } from './refusal.ts'

/** Of an order, what is known before its pictures are read. */
export interface EarlyTerms {
  model?: string | undefined
  size?: string | undefined
  n?: number | undefined
  priority?: 'standard' | 'batch' | undefined
}

/** One of each class that a price book can tell apart. */
export const SIZE_OF_EACH_CLASS = [
  { width: 512, height: 512 },
  { width: 1280, height: 1280 },
  { width: 2048, height: 2048 },
] as const

/**
 * Refuses an order that plainly cannot be taken, above all for want of money, before its pictures are taken in. For what is not known yet
 * the cheapest is assumed, so that no order is refused that could be paid.
 *
 * @throws ApiError as the reservation would
 */
export async function admitEarly(
  deps: Deps,
  principal: KeyPrincipal,
  call: { terms: EarlyTerms; refused: RefusedCall },
): Promise<void> {
  // What is not there may be held by the job of a lost call that this one takes up.
  if (deps.lostCalls.has(principal.keyId)) return
  const { n = 1 } = call.terms
  const unitMicros = await leastPrice(deps, principal.orgId, call.terms)
  const amountMicros = unitMicros * BigInt(n)
  const refusal = await foreseeRefusal(deps.db, { ...principal, amountMicros })
  if (refusal) throw toRefusalError(refusal, call.refused)
}

/** The price of one picture, or of the cheapest while the size is not known. */
async function leastPrice(deps: Deps, orgId: string, terms: EarlyTerms): Promise<bigint> {
  const { model = MODEL, size, priority = 'standard' } = terms
  const entry = await deps.catalogue.find(deps.db, model)
  if (entry === null || size !== undefined) {
    const checked = await checkOrder(deps, orgId, { model, size, priority })
    if (checked instanceof ApiError) throw checked
    return checked.price.unitMicros
  }
  const quotes = await Promise.all(
    SIZE_OF_EACH_CLASS.map((pixels) =>
      deps.catalogue.price(deps.db, { orgId, model, ...pixels, quality: QUALITY, priority }),
    ),
  )
  const prices = quotes.flatMap((quote) => (quote === null ? [] : [quote.unitMicros]))
  return prices.reduce((least, price) => (price < least ? price : least), prices[0] ?? 0n)
}
