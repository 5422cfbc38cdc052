import type { Db } from '../db/client.ts'
import type { BudgetScope } from './reserve.ts'

/** Limits and use of one level; amounts in micro-USD, null = no limit. */
export interface LevelBalance {
  readonly scope: BudgetScope
  readonly scopeId: string
  readonly creditMicros: bigint | null
  readonly heldMicros: bigint
  readonly spentMicros: bigint
  readonly availableMicros: bigint | null
  readonly monthLimitMicros: bigint | null
  readonly monthHeldMicros: bigint
  readonly monthSpentMicros: bigint
  readonly monthResetsAt: Date | null
  readonly inflight: number
  readonly maxInflight: number | null
}

/** What key, team and org have held, spent and left at this moment, in that order. */
export async function readBalance(
  db: Db,
  input: { keyId: string; teamId: string; orgId: string },
): Promise<LevelBalance[]> {
  const rows = await db.sql<LevelBalance[]>`
    select b.scope, b.scope_id as "scopeId", b.limit_micros as "creditMicros",
           b.held_micros as "heldMicros", b.spent_micros as "spentMicros",
           b.limit_micros - b.held_micros - b.spent_micros as "availableMicros",
           b.month_limit_micros as "monthLimitMicros",
           coalesce(m.held_micros, 0)::bigint as "monthHeldMicros",
           coalesce(m.spent_micros, 0)::bigint as "monthSpentMicros",
           m.period_end as "monthResetsAt", b.inflight, b.max_inflight as "maxInflight"
      from budget b
      left join budget m on m.scope = b.scope and m.scope_id = b.scope_id and m.kind = 'month'
       and m.period_start <= now() and m.period_end > now()
     where b.kind = 'balance'
       and (b.scope, b.scope_id) in
           (('key', ${input.keyId}), ('team', ${input.teamId}), ('org', ${input.orgId}))`
  const order: BudgetScope[] = ['key', 'team', 'org']
  return rows.toSorted((a, b) => order.indexOf(a.scope) - order.indexOf(b.scope))
}
