import { writeFile } from 'node:fs/promises'
import { parseArgs } from 'node:util'
import { BUGS } from './bugs.ts'
import { huntBugs } from './bug-hunt.ts'
import { isExpected, textOf } from './expected-errors.ts'
import { createReport, toText } from './fault-report.ts'
import { runKills } from './process-kills.ts'
import { openWorldServer, runWorlds } from './run-worlds.ts'
import type { WorldsResult } from './run-worlds.ts'

const USAGE = `Usage: npm run faults -- [--runs 20] [--seed 1] [--faults N] [--minutes M] [--parallel 6] [--out FILE]
       npm run faults -- --bugs [--only TEXT] [--seed 1]
       npm run faults -- --kill 100 [--seed 1]

Lets faults fire at everything that moves money, and says how many did and what came of it. Ends with 1 when a charge was
lost or doubled or any other rule was broken.

  --bugs  how soon it finds mistakes that are put in on purpose; --only those whose name has the text
  --kill  so many times real processes are killed, connections ended and machines taken away, in place of simulated
          faults`

const { values } = parseArgs({
  options: {
    runs: { type: 'string' },
    seed: { type: 'string', default: '1' },
    faults: { type: 'string' },
    minutes: { type: 'string' },
    parallel: { type: 'string', default: '6' },
    kill: { type: 'string' },
    bugs: { type: 'boolean', default: false },
    only: { type: 'string', default: '' },
    out: { type: 'string' },
    help: { type: 'boolean', default: false },
  },
})
if (values.help) {
  console.log(USAGE)
  process.exit(0)
}
const seed = Number(values.seed)
const parallel = Number(values.parallel)
const isBounded = values.faults !== undefined || values.minutes !== undefined
const maxRuns = Number(values.runs ?? (isBounded ? Infinity : 20))
const command = `npm run faults -- ${process.argv.slice(2).join(' ')}`

// A promise that nobody awaits and that is no fault's work is a finding.
const strays: string[] = []
process.on('unhandledRejection', (reason) => {
  if (!isExpected(reason)) strays.push(textOf(reason))
})

const startMs = performance.now()
const durationSeconds = () => (performance.now() - startMs) / 1000
/** Prints a result and makes a finding the exit status. */
function tell(result: WorldsResult): object {
  const report = createReport(result, { seed, command, durationSeconds: durationSeconds() })
  console.log(toText(report))
  if (result.failures.length > 0) process.exitCode = 1
  return report
}

async function runSimulated(): Promise<object> {
  const server = await openWorldServer()
  try {
    if (values.bugs) {
      const bugs = BUGS.filter(({ name }) => name.includes(values.only))
      const hunt = await huntBugs(server, { bugs, seed, parallel })
      console.log(hunt.text)
      if (hunt.isMissing) process.exitCode = 1
      return hunt.report
    }
    const result = await runWorlds(server, {
      firstSeed: seed,
      maxRuns,
      maxFaults: Number(values.faults ?? Infinity),
      maxMinutes: Number(values.minutes ?? Infinity),
      parallel,
      onRun: ({ seed: of, broken }, { total }) => {
        const said = broken.length === 0 ? '' : `\n  ${broken.slice(0, 8).join('\n  ')}`
        const seconds = Math.round(durationSeconds())
        console.error(`seed ${of} done, ${total} faults in ${seconds} s${said}`)
      },
    })
    return tell(result)
  } finally {
    await server.close()
  }
}

const report =
  values.kill === undefined
    ? await runSimulated()
    : tell(await runKills({ kills: Number(values.kill), seed }))
if (strays.length > 0) {
  console.error(`rejections that nobody awaited: ${strays.slice(0, 5).join('; ')}`)
  process.exitCode = 1
}
if (values.out !== undefined) await writeFile(values.out, `${JSON.stringify(report, null, 2)}\n`)
