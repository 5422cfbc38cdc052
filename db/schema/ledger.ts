import { sql } from 'drizzle-orm'
import {
  bigint,
  check,
  customType,
  index,
  pgTable,
  primaryKey,
  text,
  timestamp,
  uniqueIndex,
} from 'drizzle-orm/pg-core'
import { org, team } from './org.ts'

const xid8 = customType<{ data: string }>({ dataType: () => 'xid8' })

/** Accounts and their meaning are listed in billing/LEDGER.md. */
export const ledgerAccount = pgTable(
  'ledger_account',
  {
    id: text().primaryKey(),
    /** Null for the platform's own accounts. */
    orgId: text('org_id'),
    /** Set for the cost accounts of teams. */
    teamId: text('team_id').references(() => team.id),
    type: text().notNull(),
    currency: text().notNull().default('USD'),
  },
  (t) => [
    uniqueIndex('ledger_account_once').on(
      sql`coalesce(${t.orgId}, '')`,
      sql`coalesce(${t.teamId}, '')`,
      t.type,
    ),
  ],
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

/** Append-only. Positive = debit. A trigger refuses a statement whose entries do not sum to 0, or lie nowhere. */
export const ledgerEntry = pgTable(
  'ledger_entry',
  {
    id: bigint({ mode: 'bigint' }).primaryKey().generatedAlwaysAsIdentity(),
    txnId: text('txn_id').notNull(),
    accountId: text('account_id').notNull(),
    amountMicros: bigint('amount_micros', { mode: 'bigint' }).notNull(),
    phase: text({ enum: ['pending', 'posted'] }).notNull(),
    /** The transaction that wrote it: what tells committed rows from those that may still come. */
    xid: xid8()
      .notNull()
      .default(sql`pg_current_xact_id()`),
  },
  (t) => [
    index('ledger_entry_by_txn').on(t.txnId),
    // Projections read an account's entries in commit order.
    index('ledger_entry_by_account').on(t.accountId, t.xid),
    check('ledger_entry_phase_known', sql`${t.phase} in ('pending', 'posted')`),
  ],
)

/**
 * The sums of an account's entries up to the watermark `balances`: a projection that can be thrown away and rebuilt.
 * No row: none of its entries is that old.
 */
export const ledgerBalance = pgTable('ledger_balance', {
  accountId: text('account_id')
    .primaryKey()
    .references(() => ledgerAccount.id),
  pendingMicros: bigint('pending_micros', { mode: 'bigint' }).notNull(),
  postedMicros: bigint('posted_micros', { mode: 'bigint' }).notNull(),
})

/**
 * An org's own ledger, line by line in the order of their chaining: each line's hash covers the one before, so a
 * copy that was kept shows any later change.
 */
export const ledgerLine = pgTable(
  'ledger_line',
  {
    orgId: text('org_id')
      .notNull()
      .references(() => org.id),
    seq: bigint({ mode: 'bigint' }).notNull(),
    entryId: bigint('entry_id', { mode: 'bigint' })
      .notNull()
      .unique()
      .references(() => ledgerEntry.id),
    hash: text().notNull(),
    chainedAt: timestamp('chained_at', { withTimezone: true }).notNull().defaultNow(),
  },
  (t) => [primaryKey({ columns: [t.orgId, t.seq] })],
)

/**
 * Up to where a projection has read. A chain goes by the order of commits, so it notes the last transaction. Balances
 * go by entry ids: all up to `folded_to` are in them and no other; once every transaction up to `xid` has ended, all
 * up to `complete_to` that will ever be there are there.
 */
export const ledgerWatermark = pgTable('ledger_watermark', {
  projection: text().primaryKey(),
  xid: xid8().notNull(),
  foldedTo: bigint('folded_to', { mode: 'bigint' }),
  completeTo: bigint('complete_to', { mode: 'bigint' }),
})
