import type { EvalReport, EvalItem } from './report.ts'

export interface Interval {
  readonly low: number
  readonly high: number
}

export interface ComparedMetric {
  readonly group: string
  readonly metric: 'accuracy' | 'ned'
  readonly prompts: number
  readonly a: number
  readonly b: number
  /** Of b less a. */
  readonly difference: number
  readonly interval: Interval
}

const RESAMPLES = 10_000
/** Of the interval. */
const SHARE = 0.95

/**
 * What the second report is better by, with the interval in which 95 % of resamplings lie: a paired bootstrap over the
 * prompts that both have, so that hard prompts weigh on both sides alike. The same seed gives the same interval.
 *
 * @throws when the reports are of different suites, or share no prompt
 */
export function compareReports(a: EvalReport, b: EvalReport, seed = 1): ComparedMetric[] {
  if (a.suite !== b.suite) throw new Error(`the suites differ: ${a.suite} and ${b.suite}`)
  const theirs = Map.groupBy(b.items, ({ id }) => id)
  const pairs = [...Map.groupBy(a.items, ({ id }) => id)].flatMap(([id, own]) => {
    const other = theirs.get(id)
    return other === undefined ? [] : [{ own, other, group: String(own[0]?.regions ?? 0) }]
  })
  if (pairs.length === 0) throw new Error('the reports share no prompt')
  const groups = [...Map.groupBy(pairs, ({ group }) => group)].toSorted(([x], [y]) =>
    x.localeCompare(y, 'en', { numeric: true }),
  )
  const all: [string, Pair[]][] = [['all', pairs], ...groups.map(regionsOf)]
  return all.flatMap(([group, members]) =>
    (['accuracy', 'ned'] as const).flatMap((metric) => compareMetric(group, members, metric, seed)),
  )
}

interface Pair {
  own: EvalItem[]
  other: EvalItem[]
}

function regionsOf([group, members]: [string, Pair[]]): [string, Pair[]] {
  return [`${group} regions`, members]
}

/** Of one prompt on one side: what its pictures add above and below the fraction. */
interface Parts {
  above: number
  below: number
}

function compareMetric(
  group: string,
  pairs: readonly Pair[],
  metric: ComparedMetric['metric'],
  seed: number,
): ComparedMetric[] {
  const own = pairs.map((pair) => partsOf(pair.own, metric))
  const other = pairs.map((pair) => partsOf(pair.other, metric))
  const everyone = pairs.map((_, index) => index)
  const [a, b] = [pooled(own, everyone), pooled(other, everyone)]
  if (a === null || b === null) return []
  const random = createRandom(seed)
  const sample = [...everyone]
  const differences = Array.from({ length: RESAMPLES }, () => {
    for (const index of everyone) sample[index] = Math.floor(random() * pairs.length)
    return (pooled(other, sample) ?? 0) - (pooled(own, sample) ?? 0)
  }).toSorted((x, y) => x - y)
  const at = (share: number) => differences[Math.round(share * (RESAMPLES - 1))] ?? 0
  const tail = (1 - SHARE) / 2
  const interval = { low: at(tail), high: at(1 - tail) }
  return [{ group, metric, prompts: pairs.length, a, b, difference: b - a, interval }]
}

function partsOf(items: readonly EvalItem[], metric: ComparedMetric['metric']): Parts | null {
  const parts = { above: 0, below: 0 }
  for (const { tally } of items) {
    const above = metric === 'ned' ? tally.nearness : tally.found
    if (above === null) return null
    parts.above += above
    parts.below += tally.expected
  }
  return parts
}

/** Null where the protocol has no such metric, or nothing was expected. */
function pooled(parts: readonly (Parts | null)[], sample: readonly number[]): number | null {
  let [above, below] = [0, 0]
  for (const index of sample) {
    const one = parts[index]
    if (!one) return null
    above += one.above
    below += one.below
  }
  return below === 0 ? null : above / below
}

/** Mulberry32: 32 bits of state, the same numbers on every machine. */
function createRandom(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/** A line for each comparison. */
export function toLines(rows: readonly ComparedMetric[]): string[] {
  const digits = (value: number) => value.toFixed(4)
  const signed = (value: number) => `${value < 0 ? '' : '+'}${digits(value)}`
  return rows.map(({ group, metric, prompts, a, b, difference, interval }) => {
    const { low, high } = interval
    const verdict = low > 0 ? 'better' : high < 0 ? 'worse' : 'no difference seen'
    return `${group.padEnd(10)} ${metric.padEnd(9)} ${String(prompts).padStart(5)} prompts  A ${digits(a)}  B ${digits(b)}  B-A ${signed(difference)} [${signed(low)}, ${signed(high)}]  ${verdict}`
  })
}
