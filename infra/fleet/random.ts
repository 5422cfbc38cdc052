/** A stream of numbers that is the same for the same seed and name; mulberry32. */
export interface Random {
  /** Uniform in [0, 1). */
  readonly next: () => number
  readonly exponential: (mean: number) => number
  /** Log-normal. @param spread standard deviation over mean */
  readonly spread: (mean: number, spread: number) => number
}

/** Each name has a stream of its own, so that one thing's draws do not move another's. */
export function createRandom(seed: number, name: string): Random {
  let state = hash(`${seed} ${name}`)
  const next = () => {
    state = (state + 0x6d2b79f5) | 0
    let bits = Math.imul(state ^ (state >>> 15), 1 | state)
    bits = (bits + Math.imul(bits ^ (bits >>> 7), 61 | bits)) ^ bits
    return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32
  }
  return {
    next,
    exponential: (mean) => -mean * Math.log(1 - next()),
    spread(mean, spread) {
      const variance = Math.log(1 + spread * spread)
      const normal = Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next())
      return mean * Math.exp(normal * Math.sqrt(variance) - variance / 2)
    },
  }
}

/** FNV-1a over UTF-16 units. */
function hash(text: string): number {
  let made = 0x811c9dc5
  for (let at = 0; at < text.length; at++) {
    made = Math.imul(made ^ text.charCodeAt(at), 0x01000193)
  }
  return made
}
