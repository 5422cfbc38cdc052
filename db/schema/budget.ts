import { sql } from 'drizzle-orm'
import {
  bigint,
  check,
  integer,
  pgTable,
  primaryKey,
  text,
  timestamp,
  uniqueIndex,
} from 'drizzle-orm/pg-core'

/**
 * A spending limit at one level. Two kinds share the shape:
 * `balance` (one per key, team and org, always there): prepaid credit when `limit_micros` is set,
 * unlimited when null; it also carries the in-flight limit and the monthly limit's setting.
 * `day`, `month`: one row per calendar day or month (UTC) of a level whose balance row has `day_limit_micros`
 * or `month_limit_micros`; a new period is a new row, never a reset.
 * A limit that is lowered below what is committed stands at what is committed until that has shrunk;
 * `limit_next_micros` is where it goes, and null once it is there.
 */
export const budget = pgTable(
  'budget',
  {
    id: text().primaryKey(),
    scope: text({ enum: ['key', 'team', 'org'] }).notNull(),
    scopeId: text('scope_id').notNull(),
    kind: text({ enum: ['balance', 'day', 'month'] }).notNull(),
    periodStart: timestamp('period_start', { withTimezone: true }).notNull(),
    periodEnd: timestamp('period_end', { withTimezone: true }),
    limitMicros: bigint('limit_micros', { mode: 'bigint' }),
    limitNextMicros: bigint('limit_next_micros', { mode: 'bigint' }),
    dayLimitMicros: bigint('day_limit_micros', { mode: 'bigint' }),
    monthLimitMicros: bigint('month_limit_micros', { mode: 'bigint' }),
    heldMicros: bigint('held_micros', { mode: 'bigint' })
      .notNull()
      .default(sql`0`),
    spentMicros: bigint('spent_micros', { mode: 'bigint' })
      .notNull()
      .default(sql`0`),
    inflight: integer().notNull().default(0),
    maxInflight: integer('max_inflight'),
    /** Shares of the limit, in basis points, at whose first crossing the org hears of it; a period takes its level's. */
    softBp: integer('soft_bp')
      .array()
      .notNull()
      .default(sql`'{}'`),
  },
  (t) => [
    uniqueIndex('budget_period_once').on(t.scope, t.scopeId, t.kind, t.periodStart),
    check(
      'budget_limits_not_negative',
      sql`least(${t.limitMicros}, ${t.limitNextMicros}, ${t.dayLimitMicros}, ${t.monthLimitMicros}, ${t.maxInflight}) >= 0`,
    ),
    check(
      'budget_limit_comes_down',
      sql`${t.limitNextMicros} is null or (${t.limitMicros} is not null and ${t.limitNextMicros} < ${t.limitMicros}
          and ${t.limitMicros} = ${t.heldMicros} + ${t.spentMicros})`,
    ),
    check(
      'budget_thresholds',
      sql`0 < all (${t.softBp}) and 10000 >= all (${t.softBp}) and array_position(${t.softBp}, null) is null`,
    ),
    check('budget_held_not_negative', sql`${t.heldMicros} >= 0`),
    check('budget_spent_not_negative', sql`${t.spentMicros} >= 0`),
    check('budget_limit_holds', sql`${t.heldMicros} + ${t.spentMicros} <= ${t.limitMicros}`),
    check('budget_inflight_holds', sql`${t.inflight} >= 0 and ${t.inflight} <= ${t.maxInflight}`),
  ],
)

/** A soft threshold of a budget row that was crossed: fires once. */
export const budgetAlert = pgTable(
  'budget_alert',
  {
    budgetId: text('budget_id')
      .notNull()
      .references(() => budget.id),
    bp: integer().notNull(),
    firedAt: timestamp('fired_at', { withTimezone: true }).notNull().defaultNow(),
  },
  (t) => [primaryKey({ columns: [t.budgetId, t.bp] })],
)

/** Money held for one job: its full price, until it is captured, released or expired, exactly once. */
export const reservation = pgTable(
  'reservation',
  {
    id: text().primaryKey(),
    jobId: text('job_id').notNull(),
    state: text({ enum: ['held', 'captured', 'released', 'expired'] }).notNull(),
    /** The most that one image may cost; what it does cost is decided when it is charged. */
    unitMicros: bigint('unit_micros', { mode: 'bigint' }).notNull(),
    amountMicros: bigint('amount_micros', { mode: 'bigint' }).notNull(),
    capturedMicros: bigint('captured_micros', { mode: 'bigint' })
      .notNull()
      .default(sql`0`),
    priceVersionId: text('price_version_id').notNull(),
    /** The list price beside it; the same version where the org has no contract. */
    listVersionId: text('list_version_id').notNull(),
    /** The contract that gave the price; null at list price. */
    orgPriceId: text('org_price_id'),
    createdAt: timestamp('created_at', { withTimezone: true }).notNull().defaultNow(),
    expiresAt: timestamp('expires_at', { withTimezone: true }).notNull(),
    settledAt: timestamp('settled_at', { withTimezone: true }),
  },
  (t) => [
    uniqueIndex('reservation_job_once').on(t.jobId),
    check(
      'reservation_capture_within_hold',
      sql`${t.capturedMicros} between 0 and ${t.amountMicros}`,
    ),
  ],
)

/** Which budget rows a reservation holds on, so that settling returns to exactly those rows. */
export const reservationLeg = pgTable(
  'reservation_leg',
  {
    reservationId: text('reservation_id').notNull(),
    budgetId: text('budget_id').notNull(),
  },
  (t) => [primaryKey({ columns: [t.reservationId, t.budgetId] })],
)
