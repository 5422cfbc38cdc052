import { sql } from 'drizzle-orm'
import {
  bigint,
  index,
  integer,
  jsonb,
  pgTable,
  text,
  timestamp,
  uniqueIndex,
} from 'drizzle-orm/pg-core'

/**
 * Messages that must leave, written in the transaction that made them true. Drained right after the
 * commit by whoever wrote them and, if that failed, by the sweep. Only topic today: `job.dispatch`.
 */
export const outbox = pgTable(
  'outbox',
  {
    id: bigint({ mode: 'bigint' }).primaryKey().generatedAlwaysAsIdentity(),
    topic: text().notNull(),
    dedupeKey: text('dedupe_key').notNull(),
    payload: jsonb().notNull(),
    availableAt: timestamp('available_at', { withTimezone: true }).notNull().defaultNow(),
    attempts: integer().notNull().default(0),
    doneAt: timestamp('done_at', { withTimezone: true }),
  },
  (t) => [
    uniqueIndex('outbox_once').on(t.topic, t.dedupeKey),
    index('outbox_due')
      .on(t.availableAt)
      .where(sql`${t.doneAt} is null`),
    // By which old ones are found and removed.
    index('outbox_dispatched')
      .on(t.doneAt)
      .where(sql`${t.topic} = 'job.dispatch' and ${t.doneAt} is not null`),
  ],
)
