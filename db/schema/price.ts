import { sql } from 'drizzle-orm'
import { bigint, check, pgTable, text, timestamp, uniqueIndex } from 'drizzle-orm/pg-core'

/** What can be bought: one image of one model in one size class. */
export const sku = pgTable(
  'sku',
  {
    id: text().primaryKey(),
    model: text().notNull(),
    sizeClass: text('size_class').notNull(),
    unit: text().notNull(),
  },
  (t) => [uniqueIndex('sku_once').on(t.model, t.sizeClass)],
)

export const priceBook = pgTable('price_book', {
  id: text().primaryKey(),
  name: text().notNull(),
  currency: text().notNull(),
})

/**
 * A dated price. Rows are never edited: a new price is a new row with a later `valid_from`, and the
 * version in force at an instant is the latest one not after it, so versions cannot overlap.
 */
export const priceVersion = pgTable(
  'price_version',
  {
    id: text().primaryKey(),
    bookId: text('book_id')
      .notNull()
      .references(() => priceBook.id),
    skuId: text('sku_id')
      .notNull()
      .references(() => sku.id),
    priceMicros: bigint('price_micros', { mode: 'bigint' }).notNull(),
    perUnits: bigint('per_units', { mode: 'bigint' }).notNull(),
    validFrom: timestamp('valid_from', { withTimezone: true }).notNull(),
  },
  (t) => [
    uniqueIndex('price_version_start_once').on(t.bookId, t.skuId, t.validFrom),
    check('price_not_negative', sql`${t.priceMicros} >= 0 and ${t.perUnits} > 0`),
  ],
)
