import type { Db } from '../db/client.ts'
import { toHex } from '../db/derive.ts'

/** One entry on an org's account, as it stands in its chain. */
export interface LedgerLine {
  readonly seq: bigint
  readonly occurredAt: Date
  readonly kind: string
  readonly sourceId: string
  /** Type of the account: `prepaid`, `receivable`, ... */
  readonly account: string
  readonly phase: 'pending' | 'posted'
  /** Positive = debit. */
  readonly amountMicros: bigint
  readonly hash: string
}

/** What stands before the first line. */
export const FIRST_HASH = '0'.repeat(64)
/** Lines that one call adds to the chain at most. */
const CHAIN_BATCH = 10_000

/**
 * A page of an org's ledger in the order of its chain, after what has been committed was chained. Lines never change
 * and never move.
 *
 * @param page.after the last line of the page before; 0 for the first page
 * @returns `previousHash`: that of the line before the page
 */
export async function readLedger(
  db: Db,
  orgId: string,
  page: { after: bigint; limit: number },
): Promise<{ previousHash: string; lines: LedgerLine[] }> {
  await db.sql`select chain_ledger(${orgId}, ${CHAIN_BATCH})`
  const [before] = await db.sql<{ hash: string }[]>`
    select hash from ledger_line where org_id = ${orgId} and seq = ${page.after}`
  const lines = await db.sql<LedgerLine[]>`
    select l.seq, t.occurred_at as "occurredAt", t.kind, t.source_id as "sourceId", a.type as account,
           e.phase, e.amount_micros as "amountMicros", l.hash
      from ledger_line l
      join ledger_entry e on e.id = l.entry_id
      join ledger_txn t on t.id = e.txn_id
      join ledger_account a on a.id = e.account_id
     where l.org_id = ${orgId} and l.seq > ${page.after} order by l.seq limit ${page.limit}`
  return { previousHash: before?.hash ?? FIRST_HASH, lines }
}

/**
 * The hash of a line: SHA-256 in hexadecimal over the hash before it and the line's fields, joined by `|`; the
 * instant in whole milliseconds since 1970. The database computes the same.
 */
export async function hashLine(
  previousHash: string,
  line: Omit<LedgerLine, 'hash' | 'occurredAt'> & { occurredAtMs: number },
): Promise<string> {
  const text = [
    previousHash,
    line.seq,
    line.occurredAtMs,
    line.kind,
    line.sourceId,
    line.account,
    line.phase,
    line.amountMicros,
  ].join('|')
  const digest = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text))
  return toHex(new Uint8Array(digest))
}

/** The first line whose hash is not that of its content, or null when the chain holds. */
export async function findBrokenLine(
  previousHash: string,
  lines: readonly LedgerLine[],
): Promise<bigint | null> {
  let hash = previousHash
  for (const line of lines) {
    hash = await hashLine(hash, { ...line, occurredAtMs: line.occurredAt.getTime() })
    if (hash !== line.hash) return line.seq
  }
  return null
}
