import { sql } from 'drizzle-orm'
import { bigint, check, pgTable, text, timestamp, unique, uniqueIndex } from 'drizzle-orm/pg-core'

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
    /** The customer at Stripe; null until the first payment or subscription. */
    stripeCustomerId: text('stripe_customer_id').unique(),
    /** While set, nothing new is accepted: a disputed payment or an unpaid invoice. */
    frozenAt: timestamp('frozen_at', { withTimezone: true }),
    frozenReason: text('frozen_reason'),
    /** Prepaid only: when less than this is left, `auto_topup_micros` is bought off-session. */
    autoTopupBelowMicros: bigint('auto_topup_below_micros', { mode: 'bigint' }),
    autoTopupMicros: bigint('auto_topup_micros', { mode: 'bigint' }),
    /** Failures before it no longer count. */
    autoTopupSetAt: timestamp('auto_topup_set_at', { withTimezone: true }),
    createdAt: timestamp('created_at', { withTimezone: true }).notNull().defaultNow(),
  },
  (t) => [
    // Referred to by rows that only one settlement mode may have.
    unique('org_settlement_once').on(t.id, t.settlementMode),
    check(
      'org_auto_topup_whole',
      sql`(${t.autoTopupBelowMicros} is null) = (${t.autoTopupMicros} is null) and ${t.autoTopupMicros} > 0`,
    ),
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
