import type { Db } from '../db/client.ts'
import { priceOf } from './money.ts'

/** What one image costs, and the price version that says so. */
export interface PriceQuote {
  readonly skuId: string
  readonly priceVersionId: string
  readonly unitMicros: bigint
  readonly currency: string
}

/** The book that applies where an org has no contract of its own. */
const LIST_BOOK = 'default'

/**
 * The price of one image of a model at an instant: the latest version not after it.
 *
 * @returns null when the model is not for sale at that time
 */
export async function findPrice(
  db: Db,
  request: { model: string; at: Date },
): Promise<PriceQuote | null> {
  const [row] = await db.sql<
    { sku_id: string; id: string; price_micros: bigint; per_units: bigint; currency: string }[]
  >`
    select v.sku_id, v.id, v.price_micros, v.per_units, b.currency
      from price_version v
      join sku s on s.id = v.sku_id
      join price_book b on b.id = v.book_id
     where v.book_id = ${LIST_BOOK} and s.model = ${request.model} and v.valid_from <= ${request.at}
     order by v.valid_from desc limit 1`
  if (!row) return null
  return {
    skuId: row.sku_id,
    priceVersionId: row.id,
    unitMicros: priceOf(row.price_micros, row.per_units, 1n),
    currency: row.currency,
  }
}
