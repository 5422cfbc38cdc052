import type { Amounts } from './amounts.ts'
import type { Part, Scalar, StatementDocument, WireTeam } from './document.ts'

/** RFC 4180: quoted where it must be, and nowhere else. */
export function csvCell(value: string): string {
  return /[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value
}

const COLUMNS = [
  'section',
  'month',
  'org_id',
  'team_id',
  'team',
  'cost_centre',
  'key_id',
  'key',
  'tags',
  'sku_id',
  'sku',
  'day',
  'kind',
  'of_month',
  'images',
  'list_usd',
  'discount_usd',
  'net_usd',
  'credit_usd',
  'due_usd',
  'amount_usd',
] as const

type Row = Partial<Record<(typeof COLUMNS)[number], string>>

/**
 * A statement as one table: every row says in `section` what it is. Rows of one section add up to the statement's
 * total; `corrections` and `earlier_periods` are parts of it, `correction` rows explain them, and `account` and `hold`
 * rows stand beside.
 */
export function toStatementCsv(document: StatementDocument): string {
  const names = namesOf(document)
  const scope = document.team ? teamCells(document.team) : {}
  const rows: Row[] = [
    { section: 'usage', ...scope, ...amountCells(document.usage) },
    { section: 'corrections', ...scope, ...amountCells(document.corrections) },
    { section: 'earlier_periods', ...scope, ...amountCells(document.earlier_periods) },
    { section: 'total', ...scope, ...amountCells(document.total) },
    ...document.by_team.map((part) => sectionRow('team', part, names.team(part.team_id))),
    ...document.by_key.map((part) =>
      sectionRow('key', part, { ...names.team(part.team_id), ...names.key(part.key_id) }),
    ),
    ...document.by_sku.map((part) => sectionRow('sku', part, names.sku(part.sku_id))),
    ...document.by_day.map((part) => sectionRow('day', part, { day: part.day })),
    ...document.correction_groups.map((group) => ({
      section: 'correction',
      ...names.team(group.team_id),
      ...names.key(group.key_id),
      ...names.sku(group.sku_id),
      kind: group.reason,
      of_month: group.of_month,
      ...amountCells(group),
    })),
    ...accountRows(document),
    ...document.open_holds.listed.map((hold) => ({
      section: 'hold',
      ...names.team(hold.team_id),
      ...names.key(hold.key_id),
      kind: hold.job_id,
      day: hold.held_since.slice(0, 10),
      amount_usd: hold.amount,
    })),
  ]
  const common: Row = { month: document.month, org_id: document.org.id }
  const lines = rows.map((row) =>
    COLUMNS.map((column) => csvCell(row[column] ?? common[column] ?? '')),
  )
  return [COLUMNS, ...lines].map((cells) => `${cells.join(',')}\r\n`).join('')
}

/** What ids of a document are called, as cells. */
function namesOf({ teams, keys, skus }: StatementDocument) {
  const teamsById = new Map(teams.map((team) => [team.id, team]))
  const keysById = new Map(keys.map((key) => [key.id, key]))
  const skusById = new Map(skus.map((sku) => [sku.id, sku]))
  return {
    team: (id: string): Row => teamCells(teamsById.get(id) ?? { id, name: '', cost_centre: '' }),
    key: (id: string): Row => {
      const key = keysById.get(id)
      return { key_id: id, key: asText(key?.name ?? ''), tags: toTagCell(key?.tags ?? {}) }
    },
    sku: (id: string): Row => {
      const sku = skusById.get(id)
      return { sku_id: id, sku: sku ? skuName(sku) : '' }
    },
  }
}

/** A SKU in words: the model and what is particular about this one. */
export function skuName(sku: StatementDocument['skus'][number]): string {
  const particular = [sku.size_class, sku.quality, sku.priority].filter((part) => part !== 'any')
  return [sku.model, ...particular].join(' ')
}

/** JSON: the only form in which every name and value can stand. */
function toTagCell(tags: Record<string, Scalar>): string {
  return Object.keys(tags).length === 0 ? '' : JSON.stringify(tags)
}

function accountRows({ account }: StatementDocument): Row[] {
  if (!account) return []
  return [
    { section: 'account', kind: `${account.type}:opening`, amount_usd: account.opening },
    ...account.movements.map(({ kind, amount }) => ({
      section: 'account',
      kind: `${account.type}:${kind}`,
      amount_usd: amount,
    })),
    { section: 'account', kind: `${account.type}:closing`, amount_usd: account.closing },
  ]
}

function sectionRow(section: string, part: Part, cells: Row): Row {
  return { section, ...cells, ...amountCells(part.total) }
}

function teamCells({ id, name, cost_centre }: WireTeam): Row {
  return { team_id: id, team: asText(name), cost_centre: asText(cost_centre) }
}

function amountCells({ images, list, discount, net, credit, due }: Amounts): Row {
  return {
    images: String(images),
    list_usd: list,
    discount_usd: discount,
    net_usd: net,
    credit_usd: credit,
    due_usd: due,
  }
}

/** Spreadsheets run a cell that begins like a formula; names are chosen by people. */
function asText(value: string): string {
  return /^[=+\-@\t\r]/.test(value) ? `'${value}` : value
}
