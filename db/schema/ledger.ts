import { sql } from 'drizzle-orm'
import { bigint, check, index, pgTable, text, timestamp, uniqueIndex } from 'drizzle-orm/pg-core'

/** Accounts and their meaning are listed in billing/LEDGER.md. */
export const ledgerAccount = pgTable(
  'ledger_account',
  {
    id: text().primaryKey(),
    /** Null for the platform's own accounts. */
    orgId: text('org_id'),
    type: text().notNull(),
  },
  (t) => [uniqueIndex('ledger_account_once').on(sql`coalesce(${t.orgId}, '')`, t.type)],
)

/** A balanced transaction. (kind, source) is unique for ever, so a repeat cannot post twice. */
export const ledgerTxn = pgTable(
  'ledger_txn',
  {
    id: text().primaryKey(),
    kind: text().notNull(),
    sourceId: text('source_id').notNull(),
    occurredAt: timestamp('occurred_at', { withTimezone: true }).notNull().defaultNow(),
  },
  (t) => [uniqueIndex('ledger_txn_source_once').on(t.kind, t.sourceId)],
)

/** Append-only. Positive = debit. A deferred trigger refuses a transaction whose phase does not sum to 0. */
export const ledgerEntry = pgTable(
  'ledger_entry',
  {
    id: bigint({ mode: 'bigint' }).primaryKey().generatedAlwaysAsIdentity(),
    txnId: text('txn_id')
      .notNull()
      .references(() => ledgerTxn.id),
    accountId: text('account_id')
      .notNull()
      .references(() => ledgerAccount.id),
    amountMicros: bigint('amount_micros', { mode: 'bigint' }).notNull(),
    phase: text({ enum: ['pending', 'posted'] }).notNull(),
  },
  (t) => [
    index('ledger_entry_by_txn').on(t.txnId),
    index('ledger_entry_by_account').on(t.accountId, t.id),
    check('ledger_entry_phase_known', sql`${t.phase} in ('pending', 'posted')`),
  ],
)
