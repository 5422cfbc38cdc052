import { sql } from 'drizzle-orm'
import {
  bigint,
  check,
  index,
  integer,
  jsonb,
  pgTable,
  text,
  timestamp,
  uniqueIndex,
} from 'drizzle-orm/pg-core'
import { org } from './org.ts'

/**
 * What can be bought: one image of a model. `any` in a dimension stands for whatever has no SKU of its own; the
 * most particular one that fits is sold.
 */
export const sku = pgTable(
  'sku',
  {
    id: text().primaryKey(),
    model: text().notNull(),
    sizeClass: text('size_class').notNull(),
    quality: text().notNull().default('any'),
    priority: text({ enum: ['any', 'standard', 'batch'] })
      .notNull()
      .default('any'),
    unit: text().notNull(),
  },
  (t) => [uniqueIndex('sku_once').on(t.model, t.sizeClass, t.quality, t.priority)],
)

export const priceBook = pgTable('price_book', {
  id: text().primaryKey(),
  name: text().notNull(),
  currency: text().notNull(),
})

/**
 * A dated price. Rows are never edited: a new price is a new row, and the only change a row can see is that an
 * open end is closed where the next one begins. An exclusion constraint keeps versions from overlapping.
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
    /**
     * `[{ up_to, price_micros }]`, the last `up_to` null: an image has the price of its own place in the org's
     * calendar month. Null = `price_micros` for all; with tiers that is the highest of them.
     */
    tiers: jsonb(),
    validFrom: timestamp('valid_from', { withTimezone: true }).notNull(),
    validTo: timestamp('valid_to', { withTimezone: true }),
  },
  (t) => [
    uniqueIndex('price_version_start_once').on(t.bookId, t.skuId, t.validFrom),
    check('price_not_negative', sql`${t.priceMicros} >= 0 and ${t.perUnits} > 0`),
    check('price_span', sql`${t.validTo} > ${t.validFrom}`),
  ],
)

/** What an org has agreed: a book of its own, a discount in basis points on the book's prices, or both. */
export const orgPrice = pgTable(
  'org_price',
  {
    id: text().primaryKey(),
    orgId: text('org_id')
      .notNull()
      .references(() => org.id),
    bookId: text('book_id')
      .notNull()
      .references(() => priceBook.id),
    discountBp: integer('discount_bp').notNull().default(0),
    validFrom: timestamp('valid_from', { withTimezone: true }).notNull(),
    validTo: timestamp('valid_to', { withTimezone: true }),
  },
  (t) => [
    index('org_price_by_org').on(t.orgId, t.validFrom),
    check('org_price_discount', sql`${t.discountBp} between 0 and 10000`),
    check('org_price_span', sql`${t.validTo} > ${t.validFrom}`),
  ],
)
