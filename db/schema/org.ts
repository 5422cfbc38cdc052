import { sql } from 'drizzle-orm'
import { check, pgTable, text, timestamp, uniqueIndex } from 'drizzle-orm/pg-core'

/** A tenant: whoever is billed. `internal` orgs are charged back, never invoiced. */
export const org = pgTable(
  'org',
  {
    id: text().primaryKey(),
    name: text().notNull(),
    kind: text({ enum: ['external', 'internal'] }).notNull(),
    settlementMode: text('settlement_mode', {
      enum: ['prepaid', 'postpaid', 'internal'],
    }).notNull(),
    createdAt: timestamp('created_at', { withTimezone: true }).notNull().defaultNow(),
  },
  (t) => [
    check('org_kind_known', sql`${t.kind} in ('external', 'internal')`),
    check('org_settlement_known', sql`${t.settlementMode} in ('prepaid', 'postpaid', 'internal')`),
  ],
)

/** A cost centre inside an org. Every key belongs to one, so no cost is ever unallocated. */
export const team = pgTable(
  'team',
  {
    id: text().primaryKey(),
    orgId: text('org_id')
      .notNull()
      .references(() => org.id),
    name: text().notNull(),
    costCentre: text('cost_centre').notNull(),
    createdAt: timestamp('created_at', { withTimezone: true }).notNull().defaultNow(),
  },
  (t) => [uniqueIndex('team_cost_centre_once').on(t.orgId, t.costCentre)],
)
