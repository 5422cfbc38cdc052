import { withTransaction } from '../../db/client.ts'
import type { Db } from '../../db/client.ts'
import { CHECKS } from './checks.ts'
import type { Check, Difference } from './difference.ts'
import { BALANCE_CHECK } from './ledger-checks.ts'

/** Differences that are listed of one check; a mistake in the code may have made millions, and the first show it. */
const MAX_LISTED = 100

export interface BooksReport {
  /** Names of the comparisons that were made. */
  readonly checks: string[]
  readonly differences: Difference[]
  /** Differences that were found and not listed, by check. */
  readonly unlisted: Readonly<Record<string, number>>
}

/**
 * Computes anew from the facts what the books say, and compares: all in one snapshot, so that a system at work gives
 * no false alarm, and all in the database, so that a million usage lines cost no memory here. Reads only.
 *
 * @param options.graceSeconds for which something may be due and not yet done
 */
export async function compareBooks(
  db: Db,
  { graceSeconds }: { graceSeconds: number },
): Promise<BooksReport> {
  return await withTransaction(db, async (tx) => {
    await tx.sql`set transaction isolation level repeatable read, read only`
    const differences: Difference[] = []
    const unlisted: Record<string, number> = {}
    for (const check of CHECKS) {
      const { listed, total } = await runCheck(tx, check, graceSeconds)
      differences.push(...listed)
      if (total > listed.length) unlisted[check.name] = total - listed.length
    }
    return { checks: CHECKS.map(({ name }) => name), differences, unlisted }
  })
}

/**
 * Makes the balances anew from the entries, up to the watermark that they have, where they differ. Waits for a fold under
 * way, and no fold begins before it is done; holds up nothing else. Safe to repeat.
 *
 * @param report hears of what is wrong with them before anything is written
 */
export async function rebuildBalances(
  db: Db,
  report: (difference: Difference) => void,
): Promise<void> {
  await withTransaction(db, async (tx) => {
    await tx.sql`select pg_advisory_xact_lock(hashtextextended('fold_balances', 0))`
    const { listed } = await runCheck(tx, BALANCE_CHECK, 0)
    if (listed.length === 0) return
    for (const difference of listed) report(difference)
    await tx.sql`delete from ledger_balance`
    await tx.sql`
      insert into ledger_balance (account_id, pending_micros, posted_micros)
      select account_id, coalesce(sum(amount_micros) filter (where phase = 'pending'), 0),
             coalesce(sum(amount_micros) filter (where phase = 'posted'), 0)
        from ledger_entry
       where id <= (select folded_to from ledger_watermark where projection = 'balances')
       group by account_id`
  })
}

async function runCheck(
  tx: Db,
  { name, query }: Check,
  graceSeconds: number,
): Promise<{ listed: Difference[]; total: number }> {
  const text = query.replaceAll('$grace', String(Math.trunc(graceSeconds)))
  const rows = await tx.sql.unsafe<(Omit<Difference, 'check'> & { total: bigint })[]>(`
    select ids, expected, found, count(*) over () as total
      from (${text}) as differing order by ids::text limit ${MAX_LISTED}`)
  return {
    listed: rows.map(({ ids, expected, found }) => ({ check: name, ids, expected, found })),
    total: Number(rows[0]?.total ?? 0n),
  }
}
