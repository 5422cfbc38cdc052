import { sql } from 'drizzle-orm'
import { check, integer, jsonb, pgTable, text, timestamp, uniqueIndex } from 'drizzle-orm/pg-core'
import { org, team } from './org.ts'

/**
 * What an org, or one team of it, has used in a calendar month (UTC). Closed, its document never changes a byte;
 * what comes later is a correction in the next one.
 */
export const statement = pgTable(
  'statement',
  {
    id: text().primaryKey(),
    orgId: text('org_id')
      .notNull()
      .references(() => org.id),
    /** Null for the whole org. */
    teamId: text('team_id').references(() => team.id),
    periodStart: timestamp('period_start', { withTimezone: true }).notNull(),
    periodEnd: timestamp('period_end', { withTimezone: true }).notNull(),
    /** The JSON as it was closed. */
    document: text().notNull(),
    /** Of the document, hexadecimal. */
    sha256: text().notNull(),
    closedAt: timestamp('closed_at', { withTimezone: true }).notNull().defaultNow(),
  },
  (t) => [
    uniqueIndex('statement_once').on(t.orgId, sql`coalesce(${t.teamId}, '')`, t.periodStart),
    check('statement_span', sql`${t.periodEnd} > ${t.periodStart}`),
  ],
)

/** One comparison of books, and what it found. */
export const reconRun = pgTable('recon_run', {
  id: text().primaryKey(),
  startedAt: timestamp('started_at', { withTimezone: true }).notNull().defaultNow(),
  scope: text().notNull(),
  differences: integer().notNull(),
  report: jsonb().notNull(),
})
