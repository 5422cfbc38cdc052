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
  const waiting = [...input.bugs]
  // Side by side, so that each lane stops at once when its own mistake is found.
  const lane = async () => {
    for (let bug = waiting.shift(); bug; bug = waiting.shift()) {
      const { failures, runs, ledger } = await runWorlds(server, {
        firstSeed: input.seed,
        maxRuns: MAX_RUNS,
        maxFaults: Infinity,
        maxMinutes: Infinity,
        parallel: 1,
        bug,
        isStopping: true,
      })
      const said = failures[0]?.broken[0] ?? ''
      const count = failures.length > 0 ? runs : null
      found.push({ name: bug.name, runs: count, faults: ledger.total, said })
      console.error(`${bug.name}: ${count ?? 'not caught'} (${said.slice(0, 160)})`)
    }
  }
  await Promise.all(Array.from({ length: input.parallel }, lane))
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
