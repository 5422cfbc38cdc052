import type { Tally } from './protocol.ts'

/** Pooled over all pictures of a group: by words, not by pictures. */
export interface Score {
  readonly pictures: number
  /** Words, or characters of Chinese, that were expected. */
  readonly words: number
  readonly accuracy: number | null
  readonly ned: number | null
}

export function scoreOf(tallies: readonly Tally[]): Score {
  const words = tallies.reduce((sum, { expected }) => sum + expected, 0)
  const found = tallies.reduce((sum, tally) => sum + tally.found, 0)
  const nearness = tallies.reduce<number | null>(
    (sum, tally) => (sum === null || tally.nearness === null ? null : sum + tally.nearness),
    0,
  )
  return {
    pictures: tallies.length,
    words,
    accuracy: words === 0 ? null : found / words,
    ned: words === 0 || nearness === null ? null : nearness / words,
  }
}

/** The score of each group, in ascending order of its name, numbers by value. */
export function scoresBy<Item extends { tally: Tally }>(
  items: readonly Item[],
  groupOf: (item: Item) => string | number,
): { group: string; score: Score }[] {
  const groups = Map.groupBy(items, (item) => String(groupOf(item)))
  return [...groups]
    .toSorted(([a], [b]) => a.localeCompare(b, 'en', { numeric: true }))
    .map(([group, members]) => ({ group, score: scoreOf(members.map(({ tally }) => tally)) }))
}
