import { formatUsd, parseUsd } from './money.ts'
import type { Receipt } from './receipt.ts'

/** Sums as a statement states them: US dollars with six digits. */
export interface StatedAmounts {
  images: number
  list: string
  discount: string
  net: string
  credit: string
}

/** Of a statement, what receipts can prove. */
export interface StatedBill {
  period_start: string
  period_end: string
  org: { id: string }
  team: { id: string } | null
  usage: StatedAmounts
  by_key: { key_id: string; usage: StatedAmounts }[]
  by_sku: { sku_id: string; usage: StatedAmounts }[]
  by_day: { day: string; usage: StatedAmounts }[]
}

export interface BillCheck {
  /** Receipts that count for the statement. */
  counted: number
  /** Receipts of another time, organisation or team, and those of pictures that were not delivered. */
  ignored: number
  /** One sentence per difference; empty when the bill is right. */
  differences: string[]
}

const FIELDS = ['list', 'discount', 'net', 'credit'] as const

/**
 * Recomputes a bill from receipts alone and compares it with a statement: the whole, and by key, SKU and day. Two
 * receipts of one picture are a difference, and so is one whose own amounts do not add up.
 */
export function verifyBill(receipts: readonly Receipt[], bill: StatedBill): BillCheck {
  const counted = receipts.filter((receipt) => isOfBill(receipt, bill))
  const differences = [
    ...findBadReceipts(counted),
    ...compare('the month', counted, [bill.usage]),
    ...compareGroups(
      'key',
      counted,
      ({ key }) => key,
      bill.by_key,
      ({ key_id: id }) => id,
    ),
    ...compareGroups(
      'SKU',
      counted,
      ({ sku }) => sku ?? '',
      bill.by_sku,
      ({ sku_id: id }) => id,
    ),
    ...compareGroups('day', counted, dayOf, bill.by_day, ({ day }) => day),
  ]
  return { counted: counted.length, ignored: receipts.length - counted.length, differences }
}

const dayOf = (receipt: Receipt) => receipt.occurred_at.slice(0, 10)

function isOfBill(receipt: Receipt, bill: StatedBill): boolean {
  const at = Date.parse(receipt.occurred_at)
  return (
    receipt.price_version !== null &&
    receipt.org === bill.org.id &&
    (bill.team === null || receipt.team === bill.team.id) &&
    at >= Date.parse(bill.period_start) &&
    at < Date.parse(bill.period_end)
  )
}

function findBadReceipts(receipts: readonly Receipt[]): string[] {
  const bad: string[] = []
  const seen = new Set<string>()
  for (const receipt of receipts) {
    const name = `picture ${receipt.index} of ${receipt.job}`
    if (seen.has(name)) bad.push(`${name} has two receipts`)
    seen.add(name)
    if (amountOf(receipt.list) - amountOf(receipt.discount) !== amountOf(receipt.net)) {
      bad.push(`the receipt of ${name} does not add up`)
    }
  }
  return bad
}

function compareGroups<Row extends { usage: StatedAmounts }>(
  kind: string,
  receipts: readonly Receipt[],
  groupOf: (receipt: Receipt) => string,
  rows: readonly Row[],
  nameOf: (row: Row) => string,
): string[] {
  const proved = groupBy(receipts, groupOf)
  const stated = groupBy(rows, nameOf)
  return [...new Set([...proved.keys(), ...stated.keys()])].flatMap((name) => {
    const claims = (stated.get(name) ?? []).map(({ usage }) => usage)
    return compare(`${kind} ${name}`, proved.get(name) ?? [], claims)
  })
}

function groupBy<Item>(
  items: readonly Item[],
  nameOf: (item: Item) => string,
): Map<string, Item[]> {
  const groups = new Map<string, Item[]>()
  for (const item of items) {
    const group = groups.get(nameOf(item))
    if (group) group.push(item)
    else groups.set(nameOf(item), [item])
  }
  return groups
}

function compare(
  name: string,
  receipts: readonly Receipt[],
  stated: readonly StatedAmounts[],
): string[] {
  const sum = (rows: readonly StatedAmounts[], field: (typeof FIELDS)[number]) =>
    rows.reduce((total, row) => total + amountOf(row[field]), 0n)
  const images = (rows: readonly { images: number }[]) =>
    rows.reduce((total, row) => total + row.images, 0)
  const differences: string[] = []
  const say = (field: string, claimed: string, proved: string) =>
    differences.push(`${name}: the statement says ${field} ${claimed}, the receipts say ${proved}`)
  if (images(stated) !== images(receipts)) {
    say('images', String(images(stated)), String(images(receipts)))
  }
  for (const field of FIELDS) {
    const claimed = sum(stated, field)
    const proved = sum(receipts, field)
    if (claimed !== proved) say(field, formatUsd(claimed), formatUsd(proved))
  }
  return differences
}

function amountOf(text: string): bigint {
  const amount = parseUsd(text)
  if (amount === null) throw new RangeError(`"${text}" is not an amount in US dollars`)
  return amount
}
