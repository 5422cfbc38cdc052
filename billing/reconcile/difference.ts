/** Two statements of one fact that do not agree. */
export interface Difference {
  /** Which comparison found it. */
  readonly check: string
  /** What it is about: job, budget, transaction, ... */
  readonly ids: Readonly<Record<string, string>>
  /** What follows from the facts; micro-USD, a count, a hash or a time as text. */
  readonly expected: string
  /** What the books, or Stripe, say. */
  readonly found: string
}

/**
 * A comparison as one statement, so that the database does the sums: rows of `ids` (a JSON object), `expected` and
 * `found` (texts), one for each difference. Each is true within any one snapshot, also of a system at work.
 */
export interface Check {
  readonly name: string
  readonly query: string
  /** Compares with the clock: what is due for less than the grace is on its way. Seconds stand as `$grace`. */
  readonly isTimed?: true
}

/** One line: the check, the ids, and both amounts. */
export function toLine({ check, ids, expected, found }: Difference): string {
  const names = Object.entries(ids).map(([name, id]) => `${name}=${id}`)
  return [check, ...names, `expected=${expected}`, `found=${found}`].join(' ')
}
