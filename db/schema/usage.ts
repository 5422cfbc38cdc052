import { sql } from 'drizzle-orm'
import {
  bigint,
  check,
  index,
  integer,
  pgTable,
  text,
  timestamp,
  uniqueIndex,
} from 'drizzle-orm/pg-core'
import { job } from './job.ts'
import { priceVersion, sku } from './price.ts'

/** One charged picture. The unique key on (job, idx) never expires: it is what makes charging exactly once. */
export const usageEvent = pgTable(
  'usage_event',
  {
    id: text().primaryKey(),
    jobId: text('job_id')
      .notNull()
      .references(() => job.id),
    idx: integer().notNull(),
    orgId: text('org_id').notNull(),
    teamId: text('team_id').notNull(),
    keyId: text('key_id').notNull(),
    skuId: text('sku_id')
      .notNull()
      .references(() => sku.id),
    priceVersionId: text('price_version_id')
      .notNull()
      .references(() => priceVersion.id),
    listMicros: bigint('list_micros', { mode: 'bigint' }).notNull(),
    discountMicros: bigint('discount_micros', { mode: 'bigint' }).notNull(),
    netMicros: bigint('net_micros', { mode: 'bigint' }).notNull(),
    occurredAt: timestamp('occurred_at', { withTimezone: true }).notNull().defaultNow(),
  },
  (t) => [
    uniqueIndex('usage_event_image_once').on(t.jobId, t.idx),
    index('usage_event_by_org').on(t.orgId, t.occurredAt),
    check('usage_event_adds_up', sql`${t.netMicros} = ${t.listMicros} - ${t.discountMicros}`),
  ],
)
