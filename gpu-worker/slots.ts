/** Places for work that goes on at the same time. */
export interface Slots {
  /** Resolves when one is free, or when `leaving` is aborted. */
  untilFree(): Promise<void>
  /** Gives a free one to work that never rejects. */
  take(work: Promise<void>): void
  untilEmpty(): Promise<void>
}

export function createSlots(count: number, leaving: AbortSignal): Slots {
  const taken = new Set<Promise<void>>()
  const left = new Promise<void>((resolve) => {
    if (leaving.aborted) resolve()
    leaving.addEventListener('abort', () => resolve(), { once: true })
  })
  return {
    async untilFree() {
      while (taken.size >= count && !leaving.aborted) await Promise.race([left, ...taken])
    },
    take(work) {
      const own = work.finally(() => taken.delete(own))
      taken.add(own)
    },
    async untilEmpty() {
      await Promise.all(taken)
    },
  }
}
