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

const ORDER: readonly BudgetScope[] = ['key', 'team', 'org']

/** What key, team and org have held, spent and left at this moment, in that order. */
export async function readBalance(
  db: Db,
  input: { keyId: string; teamId: string; orgId: string },
): Promise<LevelBalance[]> {
  const levels = await selectLevels(
    db,
    db.sql`(b.scope, b.scope_id) in
           (('key', ${input.keyId}), ('team', ${input.teamId}), ('org', ${input.orgId}))`,
  )
  return levels.toSorted((a, b) => ORDER.indexOf(a.scope) - ORDER.indexOf(b.scope))
}

/** The same of one level; null when there is none of this id. */
export async function readLevel(
  db: Db,
  input: { scope: BudgetScope; scopeId: string },
): Promise<LevelBalance | null> {
  const { scope, scopeId } = input
  const [level] = await selectLevels(db, db.sql`b.scope = ${scope} and b.scope_id = ${scopeId}`)
  return level ?? null
}

/** The same of an org, its teams and the keys that are neither revoked nor expired, the org first. */
export async function readLevelsOfOrg(db: Db, orgId: string): Promise<LevelBalance[]> {
  const levels = await selectLevels(
    db,
    db.sql`((b.scope = 'org' and b.scope_id = ${orgId})
        or (b.scope = 'team' and b.scope_id in (select id from team where org_id = ${orgId}))
        or (b.scope = 'key' and b.scope_id in
            (select id from api_key where org_id = ${orgId} and revoked_at is null
                and (expires_at is null or expires_at > now()))))`,
  )
  return levels.toSorted(
    (a, b) => ORDER.indexOf(b.scope) - ORDER.indexOf(a.scope) || (a.scopeId < b.scopeId ? -1 : 1),
  )
}

/** What an org owes by the posted entries of its ledger; positive = owed. */
export async function readReceivable(db: Db, orgId: string): Promise<bigint> {
  const [row] = await db.sql<{ owed: bigint }[]>`select owed_micros(${orgId}) as owed`
  return row?.owed ?? 0n
}

async function selectLevels(db: Db, condition: ReturnType<Db['sql']>): Promise<LevelBalance[]> {
  const rows = await db.sql<BudgetRow[]>`
    select b.scope, b.scope_id as "scopeId", b.kind, b.limit_micros as "limitMicros",
           b.limit_next_micros as "limitNextMicros", b.held_micros as "heldMicros", b.spent_micros as "spentMicros",
           b.day_limit_micros as "dayLimitMicros", b.month_limit_micros as "monthLimitMicros",
           b.period_end as "resetsAt", b.inflight, b.max_inflight as "maxInflight", b.soft_bp as "softBp"
      from budget b
     where ${condition} and (b.kind, b.period_start) in
           (('balance', 'epoch'), ('day', period_start('day')), ('month', period_start('month')))`
  const ofLevel = Map.groupBy(rows, (row) => row.scopeId)
  return rows.flatMap((row) =>
    row.kind === 'balance' ? [toLevel(row, ofLevel.get(row.scopeId) ?? [])] : [],
  )
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
