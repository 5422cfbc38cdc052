import type { Db } from '../db/client.ts'
import { readBalance } from './balance.ts'
import type { LevelBalance } from './balance.ts'
import type { ReserveRefusal } from './reserve.ts'

/**
 * Why a reservation of this amount would be refused now; null when nothing speaks against it. A look without locks
 * that holds nothing: for calls whose body is large, before it is read. The reservation itself decides.
 */
export async function foreseeRefusal(
  db: Db,
  input: { keyId: string; teamId: string; orgId: string; amountMicros: bigint },
): Promise<ReserveRefusal | null> {
  const [levels, frozen] = await Promise.all([
    readBalance(db, input),
    db.sql`select 1 from org where id = ${input.orgId} and frozen_at is not null`,
  ])
  for (const level of levels) {
    const refusal = refusalOf(level, input.amountMicros)
    if (refusal) return refusal
  }
  return frozen.length > 0 ? { ok: false, reason: 'org_frozen' } : null
}

function refusalOf(level: LevelBalance, amountMicros: bigint): ReserveRefusal | null {
  const { scope, heldMicros, spentMicros, creditMicros, inflight, maxInflight } = level
  if (creditMicros !== null && heldMicros + spentMicros + amountMicros > creditMicros) {
    const amounts = { limitMicros: creditMicros, spentMicros, heldMicros, amountMicros }
    const reason = 'insufficient_credit'
    return { ok: false, reason, scope, period: null, ...amounts, resetsAt: null }
  }
  if (maxInflight !== null && inflight >= maxInflight) {
    return { ok: false, reason: 'too_many_inflight', scope, inflight, maxInflight }
  }
  for (const period of ['month', 'day'] as const) {
    const { limitMicros, spentMicros: spent, heldMicros: held, resetsAt } = level[period]
    if (limitMicros === null || held + spent + amountMicros <= limitMicros) continue
    const amounts = { limitMicros, spentMicros: spent, heldMicros: held, amountMicros }
    return { ok: false, reason: 'budget_exceeded', scope, period, ...amounts, resetsAt }
  }
  return null
}
