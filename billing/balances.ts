import type { Db } from '../db/client.ts'

/** What an account of the ledger holds; debits are positive. */
export interface AccountBalance {
  readonly accountId: string
  /** Null for the platform's own accounts. */
  readonly orgId: string | null
  readonly type: string
  readonly pendingMicros: bigint
  readonly postedMicros: bigint
}

/** Statements of one call; what is left is folded by the next. */
const MAX_STEPS = 10

/**
 * Brings the balances of ledger accounts nearer to the newest entry. Safe to call from any number of processes while
 * entries are written: one works, the others return at once, and no entry is counted twice or left out.
 *
 * @param options.limit entries in one statement
 * @returns how many entries were added
 */
export async function foldBalances(db: Db, { limit }: { limit: number }): Promise<number> {
  let folded = 0
  for (let step = 0; step < MAX_STEPS; step++) {
    const [row] = await db.sql<{ count: bigint }[]>`select fold_balances(${limit}::int) as count`
    if (!row || row.count === 0n) break
    folded += Number(row.count)
  }
  return folded
}

/**
 * The trial balance as of now: every account that was ever used, platform accounts first. Reads the folded sums and
 * the few entries that came after, so that it costs the same whatever the ledger's age.
 */
export async function readTrialBalance(db: Db): Promise<AccountBalance[]> {
  return await db.sql<AccountBalance[]>`
    with newer as (
      select account_id, sum(amount_micros) filter (where phase = 'pending') as pending,
             sum(amount_micros) filter (where phase = 'posted') as posted
        from ledger_entry
       where id > coalesce((select folded_to from ledger_watermark where projection = 'balances'), 0)
       group by account_id
    )
    select a.id as "accountId", a.org_id as "orgId", a.type,
           (coalesce(b.pending_micros, 0) + coalesce(n.pending, 0))::bigint as "pendingMicros",
           (coalesce(b.posted_micros, 0) + coalesce(n.posted, 0))::bigint as "postedMicros"
      from ledger_account a
      left join ledger_balance b on b.account_id = a.id
      left join newer n on n.account_id = a.id
     where b.account_id is not null or n.account_id is not null
     order by a.org_id nulls first, a.id`
}
