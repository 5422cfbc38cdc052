import type { Db } from '../db/client.ts'

/**
 * Adds credit to a prepaid org and posts it, once per source. Safe to repeat.
 *
 * @param input.sourceId what paid for it, such as a payment id; unique for ever
 * @returns false when this source was granted before: the same amount to the same org
 * @throws with SQLSTATE `GP409`, and nothing granted, when the org is not prepaid or not there, the amount is not
 *   positive, or the source was granted to another org or with another amount
 */
export async function grantCredit(
  db: Db,
  input: { orgId: string; amountMicros: bigint; sourceId: string },
): Promise<boolean> {
  const [row] = await db.sql<{ granted: boolean }[]>`
    select grant_credit(${input.orgId}, ${input.amountMicros}::bigint, ${input.sourceId}) as granted`
  return row?.granted ?? false
}
