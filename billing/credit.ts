import type { Db } from '../db/client.ts'

/**
 * Adds prepaid credit to an org and posts it, once per source. Safe to repeat.
 *
 * @param input.sourceId what paid for it, such as a payment id; unique for ever
 * @returns false when this source was granted before
 */
export async function grantCredit(
  db: Db,
  input: { orgId: string; amountMicros: bigint; sourceId: string },
): Promise<boolean> {
  const [row] = await db.sql<{ granted: boolean }[]>`
    select grant_credit(${input.orgId}, ${input.amountMicros}::bigint, ${input.sourceId}) as granted`
  return row?.granted ?? false
}
