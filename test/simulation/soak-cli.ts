import { writeFile } from 'node:fs/promises'
import { parseArgs } from 'node:util'
import { describeMachine } from '../support/machine.ts'
import { soak } from './soak.ts'

const HELP = `Usage: npm run soak -- [--minutes 60] [--seed 1] [--model DIR] [--out FILE]

Runs everything that npm start runs under mixed load: three dialects, sizes and numbers of pictures, edits, cancels,
deletes, quotes, statements and webhooks. In the first half gateway and worker are killed at random; in the second they
are left alone, and the memory of each process is watched. Then every order, picture and charge is compared. Ends with 1
when anything was lost or doubled, or memory grew by more than a tenth. A run of less than 25 minutes says little of memory.

  --model  a checkpoint that draws quickly (the one of the fixtures)`

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '60' },
    seed: { type: 'string', default: '1' },
    model: { type: 'string', default: 'test/fixtures/golden/checkpoint' },
    out: { type: 'string' },
    help: { type: 'boolean', default: false },
  },
})
if (values.help) {
  console.log(HELP)
  process.exit(0)
}
const minutes = Number(values.minutes)
const seed = Number(values.seed)
if (!(minutes > 0)) throw new Error('--minutes must be a number above 0')

const machine = describeMachine()
const result = await soak({
  minutes,
  seed,
  modelDir: values.model,
  say: (text) => console.error(text),
})
const report = {
  bench: 'soak',
  command: `npm run soak -- --minutes ${minutes} --seed ${seed}`,
  machine,
  loadAfter: describeMachine().load,
  ...result,
}
const { broken, memory, latencies } = result
console.log(
  `${result.minutes} min, ${result.orders} orders, ${result.pictures} pictures, ${result.chargedUsd} USD charged; kills: ${JSON.stringify(result.kills)}`,
)
console.log(`jobs: ${JSON.stringify(result.states)}; webhooks: ${JSON.stringify(result.webhooks)}`)
console.table(latencies)
console.table(memory)
const of = (word: string) => broken.filter((one) => one.startsWith(word)).length
console.log(`${of('lost')} lost, ${of('doubled')} doubled, ${broken.length} findings`)
for (const one of broken.slice(0, 20)) console.log(`  ${one}`)
if (values.out !== undefined) await writeFile(values.out, `${JSON.stringify(report, null, 2)}\n`)
if (broken.length > 0) process.exitCode = 1
