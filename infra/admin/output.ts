import { formatUsd } from '../../billing/money.ts'
import { toInstant } from '../../billing/statement/month.ts'

/** A bigint is money, in micro-USD; what is counted is a number. */
export type Cell = string | number | bigint | boolean | Date | null | readonly string[] | Tags
/** Names with values. */
export interface Tags {
  readonly [name: string]: string
}
export type Row = Readonly<Record<string, Cell>>
/** One thing with lists in it. */
export type Report = Readonly<Record<string, Cell | readonly Row[]>>
export type Outcome = readonly Row[] | Report

/** For machines: money as a text with six digits, instants as ISO 8601. */
export function toJson(outcome: Outcome): string {
  const replaced = JSON.stringify(
    outcome,
    (_name, value: unknown) => (typeof value === 'bigint' ? formatUsd(value) : value),
    2,
  )
  return replaced
}

/** For people: one line per field, tables for lists. */
export function toText(outcome: Outcome): string {
  if (isList(outcome)) return outcome.length === 0 ? 'None.' : toTable(outcome)
  const entries = Object.entries(outcome)
  const fields = entries.filter((entry): entry is [string, Cell] => !isRows(entry[1]))
  const width = Math.max(0, ...fields.map(([name]) => name.length))
  const lines = fields.map(([name, cell]) => `${titleOf(name).padEnd(width)}  ${show(cell)}`)
  for (const [name, rows] of entries) {
    if (!isRows(rows)) continue
    const body = rows.length === 0 ? 'none' : toTable(rows)
    lines.push('', titleOf(name), body.replaceAll(/^/gm, '  '))
  }
  return lines.join('\n')
}

/** US dollars without the zeros that say nothing: `25.00`, `0.0135`. */
export function showUsd(amount: bigint): string {
  return formatUsd(amount).replace(/(\.\d\d\d*?)0+$/, '$1')
}

function toTable(rows: readonly Row[]): string {
  const names = Object.keys(rows[0] ?? {})
  const cells = rows.map((row) => names.map((name) => show(row[name] ?? null)))
  const isRight = names.map((name) => {
    const kinds = new Set(rows.map((row) => typeof (row[name] ?? undefined)))
    return kinds.has('number') || kinds.has('bigint')
  })
  const titles = names.map(titleOf)
  const widths = names.map((_, column) =>
    Math.max(...[titles, ...cells].map((line) => line[column]?.length ?? 0)),
  )
  return [titles, ...cells]
    .map((line) =>
      line
        .map((cell, column) => {
          const width = widths[column] ?? 0
          return isRight[column] ? cell.padStart(width) : cell.padEnd(width)
        })
        .join('  ')
        .trimEnd(),
    )
    .join('\n')
}

function titleOf(name: string): string {
  return name.replaceAll('_', ' ')
}

function show(cell: Cell): string {
  if (cell === null) return '-'
  if (typeof cell === 'bigint') return showUsd(cell)
  if (typeof cell === 'boolean') return cell ? 'yes' : 'no'
  if (cell instanceof Date) return toInstant(cell)
  if (typeof cell !== 'object') return String(cell)
  const parts = isTexts(cell) ? cell : Object.entries(cell).map((pair) => pair.join('='))
  return parts.join(',') || '-'
}

function isTexts(cell: readonly string[] | Tags): cell is readonly string[] {
  return Array.isArray(cell)
}

function isList(outcome: Outcome): outcome is readonly Row[] {
  return Array.isArray(outcome)
}

function isRows(value: Cell | readonly Row[]): value is readonly Row[] {
  return Array.isArray(value) && value.every((each) => typeof each === 'object')
}
