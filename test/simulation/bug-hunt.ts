import type { Bug } from './bugs.ts'
import { runWorlds } from './run-worlds.ts'
import type { WorldServer } from './run-worlds.ts'

/** A mistake that this many runs do not find is not found. */
const MAX_RUNS = 40

/** Puts one mistake after the other into the product and counts the runs until the oracle speaks. */
export async function huntBugs(
  server: WorldServer,
  input: { bugs: readonly Bug[]; seed: number; parallel: number },
) {
  const found: { name: string; runs: number | null; faults: number; said: string }[] = []
  for (const bug of input.bugs) {
    const { failures, ledger } = await runWorlds(server, {
      firstSeed: input.seed,
      maxRuns: MAX_RUNS,
      maxFaults: Infinity,
      maxMinutes: 10,
      parallel: input.parallel,
      bug,
      isStopping: true,
    })
    // Runs side by side end in any order; the count is that of one after the other.
    const first = failures.toSorted((a, b) => a.seed - b.seed)[0]
    const runs = first ? first.seed - input.seed + 1 : null
    found.push({ name: bug.name, runs, faults: ledger.total, said: first?.broken[0] ?? '' })
    console.error(`${bug.name}: ${runs ?? 'not caught'} (${first?.broken[0]?.slice(0, 160) ?? ''})`)
  }
  const counts = found
    .flatMap(({ runs }) => (runs === null ? [] : [runs]))
    .toSorted((a, b) => a - b)
  const median = counts[Math.floor((counts.length - 1) / 2)] ?? null
  const summary = `${counts.length} of ${found.length} seeded bugs caught, median ${median} runs to catch`
  return {
    isMissing: counts.length < found.length,
    report: { summary, seed: input.seed, bugs: found },
    text: [summary, ...found.map(({ name, runs }) => `  ${runs ?? 'never'}: ${name}`)].join('\n'),
  }
}
