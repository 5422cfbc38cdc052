import type { Db } from '../../db/client.ts'

/** Prices of the simulated orgs: the list's, one with parts of a cent, one that soon passes 24 bits of micro-USD. */
export const PRICES = {
  list: { unitMicros: 15_000n, priceVersionId: 'price_glm_image_1' },
  uneven: { unitMicros: 12_345n, priceVersionId: 'price_sim_uneven' },
  dear: { unitMicros: 1_234_567n, priceVersionId: 'price_sim_dear' },
} as const

/** Puts them into the template that every world is cloned from. */
export async function insertPrices(db: Db): Promise<void> {
  for (const { unitMicros, priceVersionId } of [PRICES.uneven, PRICES.dear]) {
    await db.sql`
      insert into price_book (id, name, currency) values (${priceVersionId}, ${priceVersionId}, 'USD')`
    await db.sql`
      insert into price_version (id, book_id, sku_id, price_micros, per_units, valid_from)
      values (${priceVersionId}, ${priceVersionId}, 'sku_glm_image', ${unitMicros.toString()}::bigint, 1, '2026-01-01T00:00:00Z')`
  }
}
