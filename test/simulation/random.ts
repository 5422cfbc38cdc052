/** A stream of numbers that is the same for the same seed and name; mulberry32. */
export interface Random {
  /** Uniform in [0, 1). */
  next(): number
  /** Whole, from 0 to `bound` - 1. */
  int(bound: number): number
  chance(probability: number): boolean
  pick<T>(list: readonly [T, ...T[]]): T
  /** The same elements in another order. */
  shuffle<T>(list: readonly T[]): T[]
}

/** Each name has a stream of its own, so that one actor's draws do not move another's. */
export function createRandom(seed: number, name = ''): Random {
  let state = hash(`${seed} ${name}`)
  const next = () => {
    state = (state + 0x6d2b79f5) | 0
    let bits = Math.imul(state ^ (state >>> 15), 1 | state)
    bits = (bits + Math.imul(bits ^ (bits >>> 7), 61 | bits)) ^ bits
    return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32
  }
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

/** FNV-1a over UTF-16 units. */
function hash(text: string): number {
  let value = 0x811c9dc5
  for (let at = 0; at < text.length; at++) {
    value = Math.imul(value ^ text.charCodeAt(at), 0x01000193)
  }
  return value >>> 0
}
