import type { Db } from '../../db/client.ts'
import type { Sums } from './amounts.ts'
import type { Month } from './month.ts'

/** Whose month: the whole org, or one team of it. */
export interface StatementScope {
  readonly orgId: string
  readonly teamId: string | null
  readonly month: Month
}

export interface OrgParty {
  readonly id: string
  readonly name: string
  readonly kind: 'external' | 'internal'
  readonly settlementMode: 'prepaid' | 'postpaid' | 'internal'
}

export interface TeamParty {
  readonly id: string
  readonly name: string
  readonly costCentre: string
}

export interface KeyParty {
  readonly id: string
  readonly name: string
  readonly last4: string
  readonly tags: unknown
}

export interface SkuParty {
  readonly id: string
  readonly model: string
  readonly sizeClass: string
  readonly quality: string
  readonly priority: string
}

/** Usage of one group; which one is said by the fields that are not null, none for the whole. */
export interface UsageGroupRow extends Sums {
  readonly teamId: string | null
  readonly keyId: string | null
  readonly skuId: string | null
  readonly day: string | null
}

export interface CorrectionGroupRow extends Sums {
  readonly reason: 'refund' | 'moved_out' | 'moved_in'
  /** The month of the usage that was corrected. */
  readonly ofMonth: string
  readonly teamId: string
  readonly keyId: string
  readonly skuId: string
  /** When it was corrected. */
  readonly day: string
  readonly lines: bigint
}

export interface HoldRow {
  readonly jobId: string
  readonly teamId: string
  readonly keyId: string
  readonly amountMicros: bigint
  readonly heldSince: Date
  /** Of all open holds, also those that are not listed. */
  readonly count: bigint
  readonly totalMicros: bigint
}

/** Posted entries on the account that the org's charges go to, by kind of transaction; debits are positive. */
export interface AccountRow {
  readonly kind: string
  readonly before: bigint
  readonly during: bigint
}

/** Everything a statement is made of. */
export interface StatementRows {
  readonly org: OrgParty
  readonly team: TeamParty | null
  readonly usage: UsageGroupRow[]
  readonly corrections: CorrectionGroupRow[]
  readonly holds: HoldRow[]
  readonly account: AccountRow[]
  readonly teams: TeamParty[]
  readonly keys: KeyParty[]
  readonly skus: SkuParty[]
}

/** A statement names this many open holds; their count and sum cover all of them. */
const MAX_LISTED_HOLDS = 1_000

/** The account type that an org's charges go to. */
export const ACCOUNT_TYPES = {
  prepaid: 'prepaid',
  postpaid: 'receivable',
  internal: 'team_cost',
} as const

/**
 * Reads what a statement is made of: the sums are made by the database, so a month of a million images costs no more
 * memory than one of ten. One snapshot needs a transaction around it.
 *
 * @returns null when there is no such org or no such team in it
 */
export async function readStatementRows(
  db: Db,
  scope: StatementScope,
): Promise<StatementRows | null> {
  const [org] = await db.sql<OrgParty[]>`
    select id, name, kind, settlement_mode as "settlementMode" from org where id = ${scope.orgId}`
  if (!org) return null
  const [team = null] = await readTeams(
    db,
    scope.orgId,
    scope.teamId === null ? [] : [scope.teamId],
  )
  if (scope.teamId !== null && team === null) return null
  const usage = await readUsage(db, scope)
  const corrections = await readCorrections(db, scope)
  const holds = await readHolds(db, scope)
  const account = await readAccount(db, scope, org)
  const named = [...usage, ...corrections, ...holds]
  const teamIds = new Set(named.flatMap(({ teamId }) => teamId ?? []))
  const keyIds = new Set(named.flatMap(({ keyId }) => keyId ?? []))
  const skuIds = new Set([...usage, ...corrections].flatMap(({ skuId }) => skuId ?? []))
  return {
    org,
    team,
    usage,
    corrections,
    holds,
    account,
    teams: await readTeams(db, scope.orgId, [...teamIds]),
    keys: await db.sql<KeyParty[]>`
      select id, name, last4, tags from api_key where id = any(${[...keyIds]})
       order by id collate "C"`,
    skus: await db.sql<SkuParty[]>`
      select id, model, size_class as "sizeClass", quality, priority
        from sku where id = any(${[...skuIds]}) order by id collate "C"`,
  }
}

/** The condition that picks a scope's rows of a table that has org_id, team_id and occurred_at. */
export function inScope(db: Db, scope: StatementScope, table: string) {
  const { orgId, teamId, month } = scope
  const name = (column: string) => db.sql(`${table}.${column}`)
  return db.sql`${name('org_id')} = ${orgId} and ${name('occurred_at')} >= ${month.start}
    and ${name('occurred_at')} < ${month.end}
    and (${teamId}::text is null or ${name('team_id')} = ${teamId})`
}

function readTeams(db: Db, orgId: string, ids: string[]): Promise<TeamParty[]> {
  return db.sql<TeamParty[]>`
    select id, name, cost_centre as "costCentre" from team
     where org_id = ${orgId} and id = any(${ids}) order by id collate "C"`
}

function readUsage(db: Db, scope: StatementScope): Promise<UsageGroupRow[]> {
  return db.sql<UsageGroupRow[]>`
    select team_id as "teamId", key_id as "keyId", sku_id as "skuId", day, count(*) as images,
           coalesce(sum(list_micros), 0)::bigint as list,
           coalesce(sum(discount_micros), 0)::bigint as discount,
           coalesce(sum(net_micros), 0)::bigint as net,
           coalesce(sum(credit_micros), 0)::bigint as credit
      from (select *, to_char(occurred_at at time zone 'UTC', 'YYYY-MM-DD') as day
              from usage_event u where ${inScope(db, scope, 'u')}) lines
     group by grouping sets ((), (team_id), (team_id, key_id), (sku_id), (day))`
}

function readCorrections(db: Db, scope: StatementScope): Promise<CorrectionGroupRow[]> {
  return db.sql<CorrectionGroupRow[]>`
    select c.reason, to_char(u.occurred_at at time zone 'UTC', 'YYYY-MM') as "ofMonth",
           c.team_id as "teamId", c.key_id as "keyId", u.sku_id as "skuId",
           to_char(c.occurred_at at time zone 'UTC', 'YYYY-MM-DD') as day, count(*) as lines,
           sum(c.images)::bigint as images, sum(c.list_micros)::bigint as list,
           sum(c.discount_micros)::bigint as discount, sum(c.net_micros)::bigint as net,
           sum(c.credit_micros)::bigint as credit
      from usage_correction c join usage_event u on u.id = c.usage_event_id
     where ${inScope(db, scope, 'c')}
     group by 1, 2, 3, 4, 5, 6
     order by "ofMonth", c.reason, c.team_id collate "C", c.key_id collate "C", u.sku_id collate "C", day`
}

/** Open when the month ended, or now while it lasts. */
function readHolds(db: Db, scope: StatementScope): Promise<HoldRow[]> {
  const { orgId, teamId, month } = scope
  return db.sql<HoldRow[]>`
    select j.id as "jobId", j.team_id as "teamId", j.key_id as "keyId",
           r.amount_micros as "amountMicros", r.created_at as "heldSince",
           count(*) over () as count, (sum(r.amount_micros) over ())::bigint as "totalMicros"
      from job j join reservation r on r.job_id = j.id
     where j.org_id = ${orgId} and (${teamId}::text is null or j.team_id = ${teamId})
       and r.created_at < ${month.end} and (r.settled_at is null or r.settled_at >= ${month.end})
     order by r.created_at, j.id limit ${MAX_LISTED_HOLDS}`
}

/** A team has an account only where it is an internal cost centre. */
async function readAccount(db: Db, scope: StatementScope, org: OrgParty): Promise<AccountRow[]> {
  const { orgId, teamId, month } = scope
  if (teamId !== null && org.settlementMode !== 'internal') return []
  return await db.sql<AccountRow[]>`
    select t.kind,
           coalesce(sum(e.amount_micros) filter (where t.occurred_at < ${month.start}), 0)::bigint as before,
           coalesce(sum(e.amount_micros) filter (where t.occurred_at >= ${month.start}), 0)::bigint as during
      from ledger_account a
      join ledger_entry e on e.account_id = a.id and e.phase = 'posted'
      join ledger_txn t on t.id = e.txn_id and t.occurred_at < ${month.end}
     where a.org_id = ${orgId} and a.type = ${ACCOUNT_TYPES[org.settlementMode]}
       and (${teamId}::text is null or a.team_id = ${teamId})
     group by t.kind order by t.kind collate "C"`
}
