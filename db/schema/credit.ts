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
} from 'drizzle-orm/pg-core'
import { org } from './org.ts'

/**
 * Credit of an org, paid or given. Charges burn it by priority (low first), then expiry (soonest first), then age.
 * What is left at its expiry goes to breakage (paid) or back to the promotional expense (given).
 */
export const creditGrant = pgTable(
  'credit_grant',
  {
    id: text().primaryKey(),
    orgId: text('org_id')
      .notNull()
      .references(() => org.id),
    kind: text({ enum: ['paid', 'promo'] }).notNull(),
    amountMicros: bigint('amount_micros', { mode: 'bigint' }).notNull(),
    remainingMicros: bigint('remaining_micros', { mode: 'bigint' }).notNull(),
    /** What payments that were returned took from it. */
    withdrawnMicros: bigint('withdrawn_micros', { mode: 'bigint' })
      .notNull()
      .default(sql`0`),
    /** 0 is burned first. */
    priority: integer().notNull().default(50),
    /** What it came from, such as a payment; unique for ever. */
    sourceId: text('source_id').notNull().unique(),
    effectiveAt: timestamp('effective_at', { withTimezone: true }).notNull().defaultNow(),
    expiresAt: timestamp('expires_at', { withTimezone: true }),
    expiredAt: timestamp('expired_at', { withTimezone: true }),
    createdAt: timestamp('created_at', { withTimezone: true }).notNull().defaultNow(),
  },
  (t) => [
    index('credit_grant_open')
      .on(t.orgId, t.priority, t.expiresAt)
      .where(sql`${t.remainingMicros} > 0`),
    check('credit_grant_positive', sql`${t.amountMicros} > 0`),
    check('credit_grant_remaining', sql`${t.remainingMicros} between 0 and ${t.amountMicros}`),
  ],
)

/** What a job's charge took from which grant. */
export const creditBurn = pgTable(
  'credit_burn',
  {
    grantId: text('grant_id').notNull(),
    jobId: text('job_id').notNull(),
    amountMicros: bigint('amount_micros', { mode: 'bigint' }).notNull(),
    /** What refunds gave back of it. */
    returnedMicros: bigint('returned_micros', { mode: 'bigint' })
      .notNull()
      .default(sql`0`),
  },
  (t) => [
    primaryKey({ columns: [t.grantId, t.jobId] }),
    index('credit_burn_by_job').on(t.jobId),
    check('credit_burn_positive', sql`${t.amountMicros} > 0`),
    check('credit_burn_returned', sql`${t.returnedMicros} between 0 and ${t.amountMicros}`),
  ],
)
