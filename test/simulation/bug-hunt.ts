import { findSign } from './bugs.ts'
import type { Bug } from './bugs.ts'
import { createFaultLedger } from './fault-ledger.ts'
import type { WorldServer } from './run-worlds.ts'

/** A mistake that this many runs do not find is not found. */
const MAX_RUNS = 20

/** Puts one mistake after the other into the product and counts the runs until the oracle speaks. */
export async function huntBugs(
  server: WorldServer,
  input: { bugs: readonly Bug[]; seed: number; parallel: number },
) {
  for (const bug of input.bugs) await server.tryBug(bug)
  const found: { name: string; runs: number | null; faults: number; said: string }[] = []
  const waiting = [...input.bugs]
  // Side by side, so that each lane stops at once when its own mistake is found.
  const lane = async () => {
    for (let bug = waiting.shift(); bug; bug = waiting.shift()) {
      const ledger = createFaultLedger()
      let said: string | null = null
      let runs = 0
      const others: string[] = []
      while (said === null && runs < MAX_RUNS) {
        const { broken } = await server.run(input.seed + runs, bug, ledger)
        runs += 1
        said = findSign(bug, broken)
        if (said === null) others.push(...broken.slice(0, 1))
      }
      const count = said === null ? null : runs
      found.push({
        name: bug.name,
        runs: count,
        faults: ledger.total,
        said: said ?? others[0] ?? '',
      })
      console.error(
        `${bug.name}: ${count ?? 'not caught'} (${(said ?? others[0] ?? '').slice(0, 160)})`,
      )
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
