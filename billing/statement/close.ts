import { withTransaction } from '../../db/client.ts'
import type { Db } from '../../db/client.ts'
import { toHex } from '../../db/derive.ts'
import { createId } from '../../db/ids.ts'
import { toDocument, toJson } from './document.ts'
import { parseMonth } from './month.ts'
import { inScope, readStatementRows } from './rows.ts'
import type { StatementScope } from './rows.ts'

/**
 * A month can be closed this long after its end. A settlement bears the time at which it began and is ended by the
 * server after 30 seconds; twice that leaves room for a slow commit.
 */
export const SETTLE_GRACE_SECONDS = 60

/** A statement and what proves it. */
export interface StatementFile {
  /** JSON; once closed these bytes never change. */
  readonly json: string
  /** Of the JSON, hexadecimal. */
  readonly sha256: string
  /** Null while it can still change. */
  readonly closedAt: Date | null
}

export type CloseResult =
  /** `repeated`: it was closed before, and this is what was stored then. */
  | { ok: true; file: StatementFile; repeated: boolean }
  /** `not_over`: the month or its grace; `still_settling`: a transaction from before its end is still open. */
  | { ok: false; reason: 'not_found' | 'not_over' | 'still_settling' }
  /** The usage lines and the ledger say different things: a bug, and nothing is closed on it. */
  | { ok: false; reason: 'books_differ'; usageMicros: bigint; ledgerMicros: bigint }

/**
 * The statement of a month: the stored bytes when it is closed, else computed from the rows as they are now.
 *
 * @returns null when there is no such org or no such team in it
 */
export async function readStatement(db: Db, scope: StatementScope): Promise<StatementFile | null> {
  const stored = await findClosed(db, scope)
  if (stored) return stored
  return await inSnapshot(db, async (tx) => {
    // Closed in between, or never.
    const now = await findClosed(tx, scope)
    return now ?? (await compute(tx, scope))
  })
}

/**
 * Closes a month: computes its statement and stores the bytes with their hash, once. Safe to repeat and to call from
 * several processes; whoever comes second gets what the first has stored.
 *
 * Nothing of the month can appear afterwards: it is over by the database's clock, no transaction from before its end
 * is open, and a line dated into a closed month is refused by the tables themselves.
 */
export async function closeStatement(
  db: Db,
  scope: StatementScope,
  { graceSeconds = SETTLE_GRACE_SECONDS }: { graceSeconds?: number } = {},
): Promise<CloseResult> {
  const stored = await findClosed(db, scope)
  if (stored) return { ok: true, file: stored, repeated: true }
  // Asked before the snapshot is taken: what this finds ended is in the snapshot.
  const wait = await findWait(db, scope.month.end, graceSeconds)
  if (wait) return { ok: false, reason: wait }
  try {
    return await inSnapshot(db, (tx) => computeAndStore(tx, scope))
  } catch (error) {
    // Somebody else's row, committed after this snapshot was taken.
    const first = isSerializationFailure(error) ? await findClosed(db, scope) : null
    if (!first) throw error
    return { ok: true, file: first, repeated: true }
  }
}

/** Months of an org (or team) that are closed, newest first. */
export async function listClosed(
  db: Db,
  owner: { orgId: string; teamId: string | null },
): Promise<{ month: string; sha256: string; closedAt: Date }[]> {
  return await db.sql<{ month: string; sha256: string; closedAt: Date }[]>`
    select to_char(period_start at time zone 'UTC', 'YYYY-MM') as month, sha256, closed_at as "closedAt"
      from statement where org_id = ${owner.orgId} and team_id is not distinct from ${owner.teamId}
     order by period_start desc`
}

/** The first month in which an org can have used anything. */
export async function firstMonth(db: Db, orgId: string): Promise<string | null> {
  const [row] = await db.sql<{ month: string }[]>`
    select to_char(least(o.created_at, (select min(occurred_at) from usage_event where org_id = o.id))
                   at time zone 'UTC', 'YYYY-MM') as month
      from org o where o.id = ${orgId}`
  return row && parseMonth(row.month) ? row.month : null
}

async function compute(tx: Db, scope: StatementScope): Promise<StatementFile | null> {
  const rows = await readStatementRows(tx, scope)
  if (!rows) return null
  const json = toJson(toDocument(rows, scope.month))
  return { json, sha256: await sha256Of(json), closedAt: null }
}

async function computeAndStore(tx: Db, scope: StatementScope): Promise<CloseResult> {
  const file = await compute(tx, scope)
  if (!file) return { ok: false, reason: 'not_found' }
  const books = await compareBooks(tx, scope)
  if (books.usageMicros !== books.ledgerMicros)
    return { ok: false, reason: 'books_differ', ...books }
  const { orgId, teamId, month } = scope
  const [row] = await tx.sql<{ closedAt: Date }[]>`
    insert into statement (id, org_id, team_id, period_start, period_end, document, sha256)
    values (${createId('statement')}, ${orgId}, ${teamId}, ${month.start}, ${month.end},
            ${file.json}, ${file.sha256})
    returning closed_at as "closedAt"`
  if (!row) throw new Error('an insert of one row returned none')
  return { ok: true, file: { ...file, closedAt: row.closedAt }, repeated: false }
}

async function findClosed(db: Db, scope: StatementScope): Promise<StatementFile | null> {
  const [row] = await db.sql<{ json: string; sha256: string; closedAt: Date }[]>`
    select document as json, sha256, closed_at as "closedAt" from statement
     where org_id = ${scope.orgId} and team_id is not distinct from ${scope.teamId}
       and period_start = ${scope.month.start}`
  return row ?? null
}

async function findWait(
  db: Db,
  end: Date,
  graceSeconds: number,
): Promise<'not_over' | 'still_settling' | null> {
  const [row] = await db.sql<{ isOver: boolean; open: bigint }[]>`
    select now() >= ${end}::timestamptz + make_interval(secs => ${graceSeconds}) as "isOver",
           (select count(*) from pg_stat_activity
             where datname = current_database() and pid <> pg_backend_pid() and xact_start < ${end}) as open`
  if (!row?.isOver) return 'not_over'
  return row.open > 0n ? 'still_settling' : null
}

/**
 * What the org's lines of the month say, and what the ledger says: posted income of transactions that are the org's,
 * by one of their accounts or by the job that they charge, less what was given back. Moves between teams are no
 * income and sum to nothing.
 */
async function compareBooks(
  tx: Db,
  { orgId, month }: StatementScope,
): Promise<{ usageMicros: bigint; ledgerMicros: bigint }> {
  const org = { orgId, teamId: null, month }
  const [row] = await tx.sql<{ usageMicros: bigint; ledgerMicros: bigint }[]>`
    select ((select coalesce(sum(net_micros), 0) from usage_event u where ${inScope(tx, org, 'u')})
          + (select coalesce(sum(net_micros), 0) from usage_correction c where ${inScope(tx, org, 'c')})
           )::bigint as "usageMicros",
           (select coalesce(-sum(i.amount_micros), 0)::bigint
              from (select t.id from ledger_account a
                      join ledger_entry e on e.account_id = a.id
                      join ledger_txn t on t.id = e.txn_id
                     where a.org_id = ${orgId} and t.occurred_at >= ${month.start} and t.occurred_at < ${month.end}
                     union
                    select t.id from (select distinct job_id from usage_event u where ${inScope(tx, org, 'u')}) used
                      join ledger_txn t on t.kind = 'charge' and t.source_id = substr(used.job_id, 5)) mine
              join ledger_entry i on i.txn_id = mine.id and i.phase = 'posted'
              join ledger_account a on a.id = i.account_id and a.type in ('revenue', 'recovery', 'refunds')) as "ledgerMicros"`
  if (!row) throw new Error('a query of one row returned none')
  return row
}

function inSnapshot<T>(db: Db, work: (tx: Db) => Promise<T>): Promise<T> {
  return withTransaction(db, async (tx) => {
    await tx.sql`set transaction isolation level repeatable read`
    return await work(tx)
  })
}

/** 40001; 23505 when the other row was there before this insert began to wait. */
function isSerializationFailure(error: unknown): boolean {
  return (
    error instanceof Error && 'code' in error && (error.code === '40001' || error.code === '23505')
  )
}

async function sha256Of(text: string): Promise<string> {
  const digest = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text))
  return toHex(new Uint8Array(digest))
}
