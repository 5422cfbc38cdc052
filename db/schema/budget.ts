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
import { job } from './job.ts'
import { priceVersion } from './price.ts'

/**
 * A spending limit at one level. Two kinds share the shape:
 * `balance` (one per key, team and org, always there): prepaid credit when `limit_micros` is set,
 * unlimited when null; it also carries the in-flight limit and the monthly limit's setting.
 * `month`: one row per calendar month (UTC) of a level whose balance row has `month_limit_micros`;
 * a new month is a new row, never a reset.
 */
export const budget = pgTable(
  'budget',
  {
    id: text().primaryKey(),
    scope: text({ enum: ['key', 'team', 'org'] }).notNull(),
    scopeId: text('scope_id').notNull(),
    kind: text({ enum: ['balance', 'month'] }).notNull(),
    periodStart: timestamp('period_start', { withTimezone: true }).notNull(),
    periodEnd: timestamp('period_end', { withTimezone: true }),
    limitMicros: bigint('limit_micros', { mode: 'bigint' }),
    monthLimitMicros: bigint('month_limit_micros', { mode: 'bigint' }),
    heldMicros: bigint('held_micros', { mode: 'bigint' })
      .notNull()
      .default(sql`0`),
    spentMicros: bigint('spent_micros', { mode: 'bigint' })
      .notNull()
      .default(sql`0`),
    inflight: integer().notNull().default(0),
    maxInflight: integer('max_inflight'),
  },
  (t) => [
    uniqueIndex('budget_period_once').on(t.scope, t.scopeId, t.kind, t.periodStart),
    check(
      'budget_limits_not_negative',
      sql`least(${t.limitMicros}, ${t.monthLimitMicros}, ${t.maxInflight}) >= 0`,
    ),
    check('budget_held_not_negative', sql`${t.heldMicros} >= 0`),
    check('budget_spent_not_negative', sql`${t.spentMicros} >= 0`),
    check('budget_limit_holds', sql`${t.heldMicros} + ${t.spentMicros} <= ${t.limitMicros}`),
    check('budget_inflight_holds', sql`${t.inflight} >= 0 and ${t.inflight} <= ${t.maxInflight}`),
  ],
)

/** Money held for one job: its full price, until it is captured, released or expired, exactly once. */
export const reservation = pgTable(
  'reservation',
  {
    id: text().primaryKey(),
    jobId: text('job_id')
      .notNull()
      .references(() => job.id),
    state: text({ enum: ['held', 'captured', 'released', 'expired'] }).notNull(),
    unitMicros: bigint('unit_micros', { mode: 'bigint' }).notNull(),
    amountMicros: bigint('amount_micros', { mode: 'bigint' }).notNull(),
    capturedMicros: bigint('captured_micros', { mode: 'bigint' })
      .notNull()
      .default(sql`0`),
    priceVersionId: text('price_version_id')
      .notNull()
      .references(() => priceVersion.id),
    createdAt: timestamp('created_at', { withTimezone: true }).notNull().defaultNow(),
    expiresAt: timestamp('expires_at', { withTimezone: true }).notNull(),
    settledAt: timestamp('settled_at', { withTimezone: true }),
  },
  (t) => [
    uniqueIndex('reservation_job_once').on(t.jobId),
    index('reservation_held_by_expiry')
      .on(t.expiresAt)
      .where(sql`${t.state} = 'held'`),
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
    reservationId: text('reservation_id')
      .notNull()
      .references(() => reservation.id),
    budgetId: text('budget_id')
      .notNull()
      .references(() => budget.id),
  },
  (t) => [primaryKey({ columns: [t.reservationId, t.budgetId] })],
)
