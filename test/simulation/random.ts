import { createRandom as createStream } from '../../infra/fleet/random.ts'

/** A stream of choices that is the same for the same seed and name. */
export interface Random {
  /** Uniform in [0, 1). */
  readonly next: () => number
  /** Whole, from 0 to `bound` - 1. */
  int(bound: number): number
  chance(probability: number): boolean
  pick<T>(list: readonly [T, ...T[]]): T
  /** The same elements in another order. */
  shuffle<T>(list: readonly T[]): T[]
}

/** Each name has a stream of its own, so that one actor's draws do not move another's. */
export function createRandom(seed: number, name = ''): Random {
  const { next } = createStream(seed, name)
  const int = (bound: number) => Math.floor(next() * bound)
  return {
    next,
    int,
    chance: (probability) => next() < probability,
    pick: (list) => list[int(list.length)] ?? list[0],
    shuffle(list) {
      const made = [...list]
      for (let last = made.length - 1; last > 0; last--) {
        const other = int(last + 1)
        ;[made[last], made[other]] = [made[other]!, made[last]!]
      }
      return made
    },
  }
}
