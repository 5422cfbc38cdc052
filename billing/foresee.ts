import type { Db } from '../db/client.ts'
import { toRefusal } from './reserve.ts'
import type { ReserveRefusal, WireRefusal } from './reserve.ts'

/**
 * Why a reservation of this amount would be refused now; null when nothing speaks against it. A look without locks
 * that holds nothing: for calls whose body is large, before it is read. The reservation itself decides.
 */
export async function foreseeRefusal(
  db: Db,
  input: { keyId: string; teamId: string; orgId: string; amountMicros: bigint },
): Promise<ReserveRefusal | null> {
  const { keyId, teamId, orgId, amountMicros } = input
  const [row] = await db.sql<{ refusal: WireRefusal | null }[]>`
    select foresee_refusal(${keyId}, ${teamId}, ${orgId}, ${amountMicros}::bigint) as refusal`
  return row?.refusal ? toRefusal(row.refusal) : null
}
