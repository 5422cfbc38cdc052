import { formatUsd } from '../money.ts'
import { addSums, noSums, toAmounts } from './amounts.ts'
import type { Amounts, Sums } from './amounts.ts'
import { toInstant } from './month.ts'
import type { Month } from './month.ts'
import { ACCOUNT_TYPES } from './rows.ts'
import type { CorrectionGroupRow, StatementRows, UsageGroupRow } from './rows.ts'

/** What a group used, what was corrected in it, and both together. */
export interface Part {
  usage: Amounts
  corrections: Amounts
  total: Amounts
}

/**
 * A month of an org or of one team, as it is written, stored and served. Ids stand in the parts; what they are
 * called stands once in `teams`, `keys` and `skus`. Money is US dollars with six digits.
 */
export interface StatementDocument extends Part {
  format: 'glyphpress-statement-1'
  month: string
  period_start: string
  period_end: string
  currency: 'USD'
  org: { id: string; name: string; kind: string; settlement_mode: string }
  /** Null for the whole org. */
  team: WireTeam | null
  /** The part of the corrections that concerns usage of earlier months. */
  earlier_periods: Amounts
  by_team: (Part & { team_id: string })[]
  by_key: (Part & { team_id: string; key_id: string })[]
  by_sku: (Part & { sku_id: string })[]
  by_day: (Part & { day: string })[]
  correction_groups: WireCorrection[]
  /**
   * The posted ledger account behind the charges: credit left (`prepaid`), money owed (`receivable`) or cost
   * charged back to platform recovery (`team_cost`). Null for a team of an external org, which has none.
   */
  account: WireAccount | null
  /** Money held at the end of the month for jobs that had not ended; charged, if at all, in a later month. */
  open_holds: { count: number; amount: string; listed: WireHold[] }
  teams: WireTeam[]
  keys: { id: string; name: string; last4: string; tags: Record<string, Scalar> }[]
  skus: { id: string; model: string; size_class: string; quality: string; priority: string }[]
}

export interface WireTeam {
  id: string
  name: string
  cost_centre: string
}

export interface WireCorrection extends Amounts {
  reason: 'refund' | 'moved_out' | 'moved_in'
  of_month: string
  team_id: string
  key_id: string
  sku_id: string
  lines: number
}

export interface WireAccount {
  type: 'prepaid' | 'receivable' | 'team_cost'
  opening: string
  movements: { kind: string; amount: string }[]
  closing: string
}

export interface WireHold {
  job_id: string
  team_id: string
  key_id: string
  amount: string
  held_since: string
}

export type Scalar = string | number | boolean | null

/** Makes the document of a month from its rows. Equal rows give an equal document. */
export function toDocument(rows: StatementRows, month: Month): StatementDocument {
  const { org, team, usage, corrections } = rows
  const whole = usage.filter(({ teamId, skuId, day }) => !(teamId ?? skuId ?? day))
  const earlier = corrections.filter(({ ofMonth }) => ofMonth !== month.month)
  return {
    format: 'glyphpress-statement-1',
    month: month.month,
    period_start: toInstant(month.start),
    period_end: toInstant(month.end),
    currency: 'USD',
    org: { id: org.id, name: org.name, kind: org.kind, settlement_mode: org.settlementMode },
    team: team && toTeam(team),
    ...toPart(sumOf(whole), sumOf(corrections)),
    earlier_periods: toAmounts(sumOf(earlier)),
    ...toBreakdowns(usage, corrections),
    correction_groups: toCorrectionGroups(corrections),
    account: toAccount(rows),
    open_holds: toHolds(rows.holds),
    teams: rows.teams.map(toTeam),
    keys: rows.keys.map(({ id, name, last4, tags }) => ({ id, name, last4, tags: toTags(tags) })),
    skus: rows.skus.map(({ sizeClass, ...sku }) => ({
      id: sku.id,
      model: sku.model,
      size_class: sizeClass,
      quality: sku.quality,
      priority: sku.priority,
    })),
  }
}

/** The bytes of a document, the same for equal documents. */
export function toJson(document: StatementDocument): string {
  return `${JSON.stringify(document, null, 2)}\n`
}

function toBreakdowns(usage: UsageGroupRow[], corrections: CorrectionGroupRow[]) {
  const byTeam = usage.filter(({ teamId, keyId }) => teamId !== null && keyId === null)
  const byKey = usage.filter(({ keyId }) => keyId !== null)
  const bySku = usage.filter(({ skuId }) => skuId !== null)
  const byDay = usage.filter(({ day }) => day !== null)
  return {
    by_team: breakDown(byTeam, corrections, ({ teamId }) => ({ team_id: teamId ?? '' })),
    by_key: breakDown(byKey, corrections, ({ teamId, keyId }) => ({
      team_id: teamId ?? '',
      key_id: keyId ?? '',
    })),
    by_sku: breakDown(bySku, corrections, ({ skuId }) => ({ sku_id: skuId ?? '' })),
    by_day: breakDown(byDay, corrections, ({ day }) => ({ day: day ?? '' })),
  }
}

type GroupKey = Pick<UsageGroupRow, 'teamId' | 'keyId' | 'skuId' | 'day'>

function breakDown<Id extends Record<string, string>>(
  usage: UsageGroupRow[],
  corrections: CorrectionGroupRow[],
  idOf: (row: GroupKey) => Id,
): (Id & Part)[] {
  const groups = new Map<string, { id: Id; usage: Sums; corrections: Sums }>()
  const groupOf = (row: GroupKey) => {
    const id = idOf(row)
    const name = Object.values(id).join('\n')
    const known = groups.get(name) ?? { id, usage: noSums(), corrections: noSums() }
    groups.set(name, known)
    return known
  }
  for (const row of usage) addSums(groupOf(row).usage, row)
  for (const row of corrections) addSums(groupOf(row).corrections, row)
  return [...groups]
    .toSorted(([a], [b]) => (a < b ? -1 : 1))
    .map(([, group]) => ({ ...group.id, ...toPart(group.usage, group.corrections) }))
}

function toCorrectionGroups(rows: CorrectionGroupRow[]): WireCorrection[] {
  const groups = new Map<string, { row: CorrectionGroupRow; lines: bigint; sums: Sums }>()
  for (const row of rows) {
    const name = [row.ofMonth, row.reason, row.teamId, row.keyId, row.skuId].join('\n')
    const known = groups.get(name) ?? { row, lines: 0n, sums: noSums() }
    groups.set(name, known)
    known.lines += row.lines
    addSums(known.sums, row)
  }
  return [...groups.values()].map(({ row, lines, sums }) => ({
    reason: row.reason,
    of_month: row.ofMonth,
    team_id: row.teamId,
    key_id: row.keyId,
    sku_id: row.skuId,
    lines: Number(lines),
    ...toAmounts(sums),
  }))
}

function toAccount({ org, team, account }: StatementRows): WireAccount | null {
  if (team !== null && org.settlementMode !== 'internal') return null
  // What we owe for credit is a liability; its holder reads it as money that is there.
  const sign = org.settlementMode === 'prepaid' ? -1n : 1n
  const opening = account.reduce((sum, { before }) => sum + sign * before, 0n)
  const moved = account.reduce((sum, { during }) => sum + sign * during, 0n)
  return {
    type: ACCOUNT_TYPES[org.settlementMode],
    opening: formatUsd(opening),
    movements: account
      .filter(({ during }) => during !== 0n)
      .map(({ kind, during }) => ({ kind, amount: formatUsd(sign * during) })),
    closing: formatUsd(opening + moved),
  }
}

function toHolds(holds: StatementRows['holds']): StatementDocument['open_holds'] {
  return {
    count: Number(holds[0]?.count ?? 0n),
    amount: formatUsd(holds[0]?.totalMicros ?? 0n),
    listed: holds.map((hold) => ({
      job_id: hold.jobId,
      team_id: hold.teamId,
      key_id: hold.keyId,
      amount: formatUsd(hold.amountMicros),
      held_since: toInstant(hold.heldSince),
    })),
  }
}

function toPart(usage: Sums, corrections: Sums): Part {
  const total = noSums()
  addSums(total, usage)
  addSums(total, corrections)
  return {
    usage: toAmounts(usage),
    corrections: toAmounts(corrections),
    total: toAmounts(total),
  }
}

function sumOf(rows: Sums[]): Sums {
  const total = noSums()
  for (const row of rows) addSums(total, row)
  return total
}

function toTeam({ id, name, costCentre }: StatementRows['teams'][number]): WireTeam {
  return { id, name, cost_centre: costCentre }
}

/** Exports take plain values only; one that is not becomes its JSON. */
function toTags(tags: unknown): Record<string, Scalar> {
  if (typeof tags !== 'object' || tags === null || Array.isArray(tags)) return {}
  const plain = Object.entries(tags).map(([name, value]: [string, unknown]) => [
    name,
    isScalar(value) ? value : JSON.stringify(value),
  ])
  return Object.fromEntries(plain.toSorted(([a], [b]) => (String(a) < String(b) ? -1 : 1)))
}

function isScalar(value: unknown): value is Scalar {
  return value === null || ['string', 'number', 'boolean'].includes(typeof value)
}
