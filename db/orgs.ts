import type { Db } from './client.ts'
import { withTransaction } from './client.ts'
import { createId } from './ids.ts'

export type BudgetScope = 'key' | 'team' | 'org'

/** Limits of one level; null = none. Amounts in micro-USD. */
export interface Limits {
  /** Credit of this level: what may be held and spent in all. */
  creditMicros?: bigint | null
  /** What may be held and spent in one calendar day (UTC). */
  dayLimitMicros?: bigint | null
  /** What may be held and spent in one calendar month (UTC). */
  monthLimitMicros?: bigint | null
  /** Jobs that may be unfinished at the same time. */
  maxInflight?: number | null
  /**
   * Shares of each limit of this level, in basis points from 1 to 10,000: the org gets an event when captured
   * spending has reached one, once for the total and once for each day and month. Not for the credit of a prepaid org.
   */
  softBp?: readonly number[] | null
}

/**
 * Creates a tenant with its ledger accounts and balance row.
 *
 * A prepaid org starts with no credit unless `creditMicros` is given; that amount is posted to the ledger.
 */
export async function createOrg(
  db: Db,
  input: {
    name: string
    kind: 'external' | 'internal'
    settlementMode: 'prepaid' | 'postpaid' | 'internal'
  } & Limits,
): Promise<{ orgId: string }> {
  const orgId = createId('org')
  await withTransaction(db, async (tx) => {
    await tx.sql`
      insert into org (id, name, kind, settlement_mode)
      values (${orgId}, ${input.name}, ${input.kind}, ${input.settlementMode})`
    await tx.sql`
      insert into ledger_account (id, org_id, type)
      select type || ':' || ${orgId}, ${orgId}, type
        from unnest(array['prepaid', 'promo', 'receivable']) as type`
    const isPrepaid = input.settlementMode === 'prepaid'
    await insertBalance(tx, 'org', orgId, {
      ...input,
      creditMicros: isPrepaid ? 0n : (input.creditMicros ?? null),
    })
    if (isPrepaid && input.creditMicros) {
      await tx.sql`select grant_credit(${orgId}, ${input.creditMicros}::bigint, ${'opening:' + orgId})`
    }
  })
  return { orgId }
}

/** Creates a team (a cost centre) with its balance row. */
export async function createTeam(
  db: Db,
  input: { orgId: string; name: string; costCentre: string } & Limits,
): Promise<{ teamId: string }> {
  const teamId = createId('team')
  await withTransaction(db, async (tx) => {
    await tx.sql`
      insert into team (id, org_id, name, cost_centre)
      values (${teamId}, ${input.orgId}, ${input.name}, ${input.costCentre})`
    await tx.sql`
      insert into ledger_account (id, org_id, team_id, type)
      values (${'team_cost:' + teamId}, ${input.orgId}, ${teamId}, 'team_cost')`
    await insertBalance(tx, 'team', teamId, input)
  })
  return { teamId }
}

/** The row that every level has. @throws on a second one for the same level */
export async function insertBalance(
  tx: Db,
  scope: BudgetScope,
  scopeId: string,
  limits: Limits,
): Promise<void> {
  await tx.sql`
    insert into budget (id, scope, scope_id, kind, period_start, limit_micros, day_limit_micros, month_limit_micros,
                        max_inflight, soft_bp)
    values (${createId('budget')}, ${scope}, ${scopeId}, 'balance', 'epoch',
            ${limits.creditMicros ?? null}::bigint, ${limits.dayLimitMicros ?? null}::bigint,
            ${limits.monthLimitMicros ?? null}::bigint, ${limits.maxInflight ?? null}::int,
            ${[...new Set(limits.softBp)].toSorted((a, b) => a - b)}::int[])`
}

export type SetBudgetResult =
  | { ok: true }
  /** `credit_is_granted`: a prepaid org's credit is what it paid for; see `grantCredit`. */
  | {
      ok: false
      reason:
        | 'below_committed'
        | 'negative_limit'
        | 'invalid_threshold'
        | 'not_found'
        | 'credit_is_granted'
    }

/**
 * Changes limits of one level; a limit left out stays, null takes it away. A limit of days or months counts all of
 * the one under way, also what was accepted before it was set. A limit below what is held and spent lets no new
 * work in from now on; what was accepted runs on and is charged, and the limit follows it down. Safe to repeat and
 * under load.
 *
 * @returns `below_committed`, and nothing changed, when more jobs are in flight than a new `maxInflight`
 */
export async function setBudget(
  db: Db,
  input: { scope: BudgetScope; scopeId: string } & Limits,
): Promise<SetBudgetResult> {
  if (input.softBp?.some((bp) => !Number.isInteger(bp))) {
    return { ok: false, reason: 'invalid_threshold' }
  }
  const changes = JSON.stringify({
    limit_micros: input.creditMicros?.toString() ?? input.creditMicros,
    day_limit_micros: input.dayLimitMicros?.toString() ?? input.dayLimitMicros,
    month_limit_micros: input.monthLimitMicros?.toString() ?? input.monthLimitMicros,
    max_inflight: input.maxInflight,
    soft_bp: input.softBp,
  })
  type Outcome = 'changed' | Extract<SetBudgetResult, { ok: false }>['reason']
  const [row] = await db.sql<{ outcome: Outcome }[]>`
    select set_budget(${input.scope}, ${input.scopeId}, ${changes}::text::jsonb) as outcome`
  if (!row) throw new Error('set_budget returned no row')
  return row.outcome === 'changed' ? { ok: true } : { ok: false, reason: row.outcome }
}

/** A tenant as it stands. */
export interface OrgRow {
  readonly id: string
  readonly name: string
  readonly mode: 'prepaid' | 'postpaid' | 'internal'
  /** Since when nothing new is accepted, and why; null when it is. */
  readonly frozenAt: Date | null
  readonly frozenReason: string | null
  readonly createdAt: Date
}

/** Every org, or those that have this id or name, oldest first. */
export async function listOrgs(db: Db, idOrName: string | null = null): Promise<OrgRow[]> {
  return await db.sql<OrgRow[]>`
    select id, name, settlement_mode as mode, frozen_at as "frozenAt", frozen_reason as "frozenReason",
           created_at as "createdAt"
      from org where ${idOrName}::text is null or id = ${idOrName} or name = ${idOrName} order by id`
}

/** A team as it stands. */
export interface TeamRow {
  readonly id: string
  readonly orgId: string
  readonly name: string
  readonly costCentre: string
  readonly createdAt: Date
}

/**
 * The teams of an org, oldest first.
 *
 * @param filter.orgId absent: of all orgs
 * @param filter.called only those that have this id, name or cost centre
 */
export async function listTeams(
  db: Db,
  filter: { orgId?: string; called?: string },
): Promise<TeamRow[]> {
  const { orgId = null, called = null } = filter
  return await db.sql<TeamRow[]>`
    select id, org_id as "orgId", name, cost_centre as "costCentre", created_at as "createdAt" from team
     where (${orgId}::text is null or org_id = ${orgId})
       and (${called}::text is null or id = ${called} or name = ${called} or cost_centre = ${called})
     order by id`
}

/**
 * Names a team anew, or its cost centre; what is left out stays. Closed statements keep what they say. False when
 * there is no such team. Safe to repeat.
 *
 * @throws with SQLSTATE 23505 when another team of the org has this cost centre
 */
export async function updateTeam(
  db: Db,
  input: { teamId: string; name?: string; costCentre?: string },
): Promise<boolean> {
  const rows = await db.sql`
    update team set name = coalesce(${input.name ?? null}, name),
                    cost_centre = coalesce(${input.costCentre ?? null}, cost_centre)
     where id = ${input.teamId} returning id`
  return rows.length > 0
}
