/** Faults that fired, by place and kind. Only the injectors write it, and only when one has fired. */
export interface FaultLedger {
  note(point: string, kind: string): void
  readonly total: number
  /** Point, kind, count; sorted. */
  cells(): [point: string, kind: string, count: number][]
  /** Adds what another ledger holds. */
  add(cells: readonly (readonly [point: string, kind: string, count: number])[]): void
}

export function createFaultLedger(): FaultLedger {
  const counts = new Map<string, Map<string, number>>()
  let total = 0
  const raise = (point: string, kind: string, by: number) => {
    const kinds = counts.get(point) ?? new Map<string, number>()
    counts.set(point, kinds)
    kinds.set(kind, (kinds.get(kind) ?? 0) + by)
    total += by
  }
  return {
    note: (point, kind) => raise(point, kind, 1),
    get total() {
      return total
    },
    cells: () =>
      [...counts]
        .flatMap(([point, kinds]) =>
          [...kinds].map(([kind, count]): [string, string, number] => [point, kind, count]),
        )
        .toSorted(([a, b], [c, d]) => `${a} ${b}`.localeCompare(`${c} ${d}`)),
    add(cells) {
      for (const [point, kind, count] of cells) raise(point, kind, count)
    },
  }
}
