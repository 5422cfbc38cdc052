import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { configOf } from './config.ts'
import { HELP, readOptions } from './options.ts'
import { pageOf } from './report-page.ts'
import { rowsOf } from './report-text.ts'
import { reportOf } from './report.ts'
import { simulate } from './simulator.ts'

function main(): void {
  const typed = process.argv.slice(2)
  const options = readOptions(typed)
  if (!options) {
    console.log(HELP)
    return
  }
  const startedAt = performance.now()
  const config = configOf(options, (file) => readFileSync(file, 'utf8'))
  const report = reportOf(simulate(config))
  const seconds = (performance.now() - startedAt) / 1_000
  for (const [name, value] of rowsOf(report)) console.log(`${name.padEnd(32)} ${value}`)
  // Not a result: how long it took is another each time.
  console.error(`${config.arrivals.seconds.length} jobs simulated in ${seconds.toFixed(1)} s`)
  if (options.out !== null) {
    mkdirSync(options.out, { recursive: true })
    const { out, ...asked } = options
    const document = { options: asked, scaling: config.scaling, ...report }
    writeFileSync(join(out, 'simulation.json'), `${JSON.stringify(document, null, 2)}\n`)
    // Where it is written is no part of it.
    const told = typed.filter((part, index) => part !== '--out' && typed[index - 1] !== '--out')
    const command = `npm run simulate -- ${told.filter((part) => !part.startsWith('--out=')).join(' ')}`
    writeFileSync(join(out, 'simulation.html'), pageOf(report, command))
  }
  if (report.jobs.lost > 0) process.exitCode = 1
}

try {
  main()
} catch (error) {
  console.error(error instanceof Error ? error.message : String(error))
  process.exitCode = 2
}
