import type { Db } from '../db/client.ts'
import type { BudgetScope } from './reserve.ts'

/** A level's day or month under way; amounts in micro-USD. */
export interface PeriodBalance {
  /** Null: not limited. */
  readonly limitMicros: bigint | null
  /** What was set, while more than that is held and spent; null once the limit is there. */
  readonly limitNextMicros: bigint | null
  readonly heldMicros: bigint
  readonly spentMicros: bigint
  /** Null before its first job. */
  readonly resetsAt: Date | null
}

/** Limits and use of one level; amounts in micro-USD, null = no limit. */
export interface LevelBalance {
  readonly scope: BudgetScope
  readonly scopeId: string
  readonly creditMicros: bigint | null
  readonly creditNextMicros: bigint | null
  readonly heldMicros: bigint
  readonly spentMicros: bigint
  readonly availableMicros: bigint | null
  readonly day: PeriodBalance
  readonly month: PeriodBalance
  readonly inflight: number
  readonly maxInflight: number | null
  /** Shares of each limit, in basis points, at which the org is told. */
  readonly softBp: number[]
}

/** What key, team and org have held, spent and left at this moment, in that order. */
export async function readBalance(
  db: Db,
  input: { keyId: string; teamId: string; orgId: string },
): Promise<LevelBalance[]> {
  const rows = await db.sql<BudgetRow[]>`
    select b.scope, b.scope_id as "scopeId", b.kind, b.limit_micros as "limitMicros",
           b.limit_next_micros as "limitNextMicros", b.held_micros as "heldMicros", b.spent_micros as "spentMicros",
           b.day_limit_micros as "dayLimitMicros", b.month_limit_micros as "monthLimitMicros",
           b.period_end as "resetsAt", b.inflight, b.max_inflight as "maxInflight", b.soft_bp as "softBp"
      from budget b
     where (b.scope, b.scope_id) in
           (('key', ${input.keyId}), ('team', ${input.teamId}), ('org', ${input.orgId}))
       and (b.kind, b.period_start) in
           (('balance', 'epoch'), ('day', period_start('day')), ('month', period_start('month')))`
  return (['key', 'team', 'org'] as const).flatMap((scope) => {
    const mine = rows.filter((row) => row.scope === scope)
    const balance = mine.find((row) => row.kind === 'balance')
    return balance ? [toLevel(balance, mine)] : []
  })
}

interface BudgetRow extends PeriodBalance {
  scope: BudgetScope
  scopeId: string
  kind: 'balance' | 'day' | 'month'
  dayLimitMicros: bigint | null
  monthLimitMicros: bigint | null
  inflight: number
  maxInflight: number | null
  softBp: number[]
}

function toLevel(balance: BudgetRow, rows: BudgetRow[]): LevelBalance {
  const { limitMicros, heldMicros, spentMicros } = balance
  return {
    scope: balance.scope,
    scopeId: balance.scopeId,
    creditMicros: limitMicros,
    creditNextMicros: balance.limitNextMicros,
    heldMicros,
    spentMicros,
    availableMicros: limitMicros === null ? null : limitMicros - heldMicros - spentMicros,
    day: rows.find((row) => row.kind === 'day') ?? unused(balance.dayLimitMicros),
    month: rows.find((row) => row.kind === 'month') ?? unused(balance.monthLimitMicros),
    inflight: balance.inflight,
    maxInflight: balance.maxInflight,
    softBp: balance.softBp,
  }
}

function unused(limitMicros: bigint | null): PeriodBalance {
  return { limitMicros, limitNextMicros: null, heldMicros: 0n, spentMicros: 0n, resetsAt: null }
}
