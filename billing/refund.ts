import type { Db } from '../db/client.ts'

/**
 * Gives back what charged pictures of a finished job cost: a correction row per picture, the money to the credit it
 * came from or off what is owed, and room in the budgets the job was counted in. Usage lines stay as they are. A
 * picture is refunded once, whatever asks for it, so this is safe to repeat.
 *
 * @param input.refundId names the cause; it may give back several pictures, at once or one after the other
 * @returns what was given back now, in micro-USD; null when the org has no such finished job
 */
export async function refundImages(
  db: Db,
  input: { orgId: string; jobId: string; indexes: readonly number[]; refundId: string },
): Promise<bigint | null> {
  const [row] = await db.sql<{ micros: bigint | null }[]>`
    select refund_images(${input.orgId}, ${input.jobId}, ${[...input.indexes]}::int[], ${input.refundId}) as micros`
  return row?.micros ?? null
}

/**
 * Gives up what an org owes and will not pay, once per source. A freeze that stood for that debt alone ends with it.
 *
 * @returns false when this source was written off before
 * @throws with SQLSTATE `GP409` when the amount is not positive, or more than the org owes
 */
export async function writeOff(
  db: Db,
  input: { orgId: string; amountMicros: bigint; sourceId: string },
): Promise<boolean> {
  const [row] = await db.sql<{ written: boolean }[]>`
    select write_off(${input.orgId}, ${input.amountMicros}::bigint, ${input.sourceId}) as written`
  return row?.written ?? false
}

/** What was written off under a source; null when nothing was. */
export async function findWriteOff(
  db: Db,
  sourceId: string,
): Promise<{ orgId: string; amountMicros: bigint } | null> {
  const [row] = await db.sql<{ orgId: string; amountMicros: bigint }[]>`
    select a.org_id as "orgId", -e.amount_micros as "amountMicros"
      from ledger_txn t join ledger_entry e on e.txn_id = t.id join ledger_account a on a.id = e.account_id
     where t.kind = 'write_off' and t.source_id = ${sourceId} and a.org_id is not null`
  return row ?? null
}
