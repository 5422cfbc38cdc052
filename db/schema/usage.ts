import { sql } from 'drizzle-orm'
import {
  bigint,
  check,
  index,
  integer,
  pgTable,
  primaryKey,
  text,
  timestamp,
  uniqueIndex,
} from 'drizzle-orm/pg-core'
import { org, team } from './org.ts'
import { sku } from './price.ts'

/** One charged picture. The unique key on (job, idx) never expires: it is what makes charging exactly once. */
export const usageEvent = pgTable(
  'usage_event',
  {
    id: text().primaryKey(),
    jobId: text('job_id').notNull(),
    idx: integer().notNull(),
    orgId: text('org_id').notNull(),
    teamId: text('team_id').notNull(),
    keyId: text('key_id').notNull(),
    skuId: text('sku_id').notNull(),
    priceVersionId: text('price_version_id').notNull(),
    listVersionId: text('list_version_id').notNull(),
    orgPriceId: text('org_price_id'),
    /** The image's place in the org's month where the price has tiers, counted from 1; else null. */
    tierPosition: bigint('tier_position', { mode: 'bigint' }),
    listMicros: bigint('list_micros', { mode: 'bigint' }).notNull(),
    discountMicros: bigint('discount_micros', { mode: 'bigint' }).notNull(),
    netMicros: bigint('net_micros', { mode: 'bigint' }).notNull(),
    /** The part of net that promotional credit pays. */
    creditMicros: bigint('credit_micros', { mode: 'bigint' })
      .notNull()
      .default(sql`0`),
    occurredAt: timestamp('occurred_at', { withTimezone: true }).notNull().defaultNow(),
  },
  (t) => [
    uniqueIndex('usage_event_image_once').on(t.jobId, t.idx),
    index('usage_event_by_org').on(t.orgId, t.occurredAt),
    check('usage_event_adds_up', sql`${t.netMicros} = ${t.listMicros} - ${t.discountMicros}`),
    check('usage_event_credit', sql`${t.creditMicros} between 0 and ${t.netMicros}`),
  ],
)

/**
 * A change of a charged picture, as a row of its own: a refund (negative amounts), or the two sides of a move to
 * another team (`moved_out` negative, `moved_in` positive). The line itself never changes.
 */
export const usageCorrection = pgTable(
  'usage_correction',
  {
    id: text().primaryKey(),
    usageEventId: text('usage_event_id')
      .notNull()
      .references(() => usageEvent.id),
    reason: text({ enum: ['refund', 'moved_out', 'moved_in'] }).notNull(),
    /** What caused it: a refund's or an assignment's id. */
    sourceId: text('source_id').notNull(),
    orgId: text('org_id').notNull(),
    teamId: text('team_id')
      .notNull()
      .references(() => team.id),
    keyId: text('key_id').notNull(),
    images: integer().notNull(),
    listMicros: bigint('list_micros', { mode: 'bigint' }).notNull(),
    discountMicros: bigint('discount_micros', { mode: 'bigint' }).notNull(),
    netMicros: bigint('net_micros', { mode: 'bigint' }).notNull(),
    creditMicros: bigint('credit_micros', { mode: 'bigint' }).notNull(),
    /** When it was written; it belongs to the statement of that month. */
    occurredAt: timestamp('occurred_at', { withTimezone: true }).notNull().defaultNow(),
  },
  (t) => [
    uniqueIndex('usage_correction_once').on(t.usageEventId, t.reason, t.sourceId),
    // A picture is refunded once, whatever asks for it.
    uniqueIndex('usage_correction_refund_once')
      .on(t.usageEventId)
      .where(sql`${t.reason} = 'refund'`),
    index('usage_correction_by_org').on(t.orgId, t.occurredAt),
    check('usage_correction_adds_up', sql`${t.netMicros} = ${t.listMicros} - ${t.discountMicros}`),
  ],
)

/** Images an org bought of a SKU in a calendar month; kept only where a price has tiers. */
export const usageCounter = pgTable(
  'usage_counter',
  {
    orgId: text('org_id')
      .notNull()
      .references(() => org.id),
    skuId: text('sku_id')
      .notNull()
      .references(() => sku.id),
    monthStart: timestamp('month_start', { withTimezone: true }).notNull(),
    images: bigint({ mode: 'bigint' }).notNull(),
  },
  (t) => [primaryKey({ columns: [t.orgId, t.skuId, t.monthStart] })],
)
