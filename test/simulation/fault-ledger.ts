/** Faults that fired, by place and kind. Only the injectors write it, and only when one has fired. */
export interface FaultLedger {
  note(point: string, kind: string): void
  /** A statement was met, in a transaction of several or by itself: only by itself can it arrive late. */
  reach(point: string, isAlone: boolean): void
  /** Of one kind, or of all of the point. */
  count(point: string, kind?: string): number
  /** How many a statement that was met has on average. */
  meanOfReached(): number
  /** Statements that were met, and whether ever by themselves. */
  reached(): [point: string, wasAlone: boolean][]
  readonly total: number
  /** Point, kind, count; sorted. */
  cells(): [point: string, kind: string, count: number][]
}

export function createFaultLedger(): FaultLedger {
  const counts = new Map<string, Map<string, number>>()
  const sums = new Map<string, number>()
  const met = new Map<string, boolean>()
  let total = 0
  let atMet = 0
  return {
    note(point, kind) {
      const kinds = counts.get(point) ?? new Map<string, number>()
      counts.set(point, kinds)
      kinds.set(kind, (kinds.get(kind) ?? 0) + 1)
      sums.set(point, (sums.get(point) ?? 0) + 1)
      total += 1
      if (met.has(point)) atMet += 1
    },
    reach: (point, isAlone) => void met.set(point, isAlone || met.get(point) === true),
    count: (point, kind) =>
      (kind === undefined ? sums.get(point) : counts.get(point)?.get(kind)) ?? 0,
    meanOfReached: () => (met.size === 0 ? 0 : atMet / met.size),
    reached: () => [...met],
    get total() {
      return total
    },
    cells: () =>
      [...counts]
        .flatMap(([point, kinds]) =>
          [...kinds].map(([kind, count]): [string, string, number] => [point, kind, count]),
        )
        .toSorted(([a, b], [c, d]) => `${a} ${b}`.localeCompare(`${c} ${d}`)),
  }
}
