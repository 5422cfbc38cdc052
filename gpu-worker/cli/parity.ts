import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'

import { openCheckpoint } from '../model/checkpoint.ts'
import { compareAutoregressive, compareChunks, compareTokenizer } from '../parity/autoregressive.ts'
import { readCases } from '../parity/cases.ts'
import { compareEdit } from '../parity/edit.ts'
import { compareDiffusion, compareGlyph, compareSchedule } from '../parity/diffusion.ts'
import { agrees, formatRows, TOLERANCE } from '../parity/report.ts'
import type { ParityRow } from '../parity/report.ts'
import { BACKENDS } from '../pipeline/session.ts'
import type { Backend } from '../pipeline/session.ts'
import { CALLER_FOLDER } from './env.ts'

/** Compares every stage with tensors that the reference implementation wrote. */

const USAGE = `npm run parity -- DIR [--backend ${BACKENDS.join('|')}]

DIR holds checkpoint/ and cases/ (cases.json and one safetensors file per case). Prints the largest difference of
every stage; exits with 1 when a float differs by more than ${TOLERANCE} or an integer at all, with 2 when DIR cannot
be compared.`

/** Exit code by convention for wrong usage, a wrong folder among it. */
const EXIT_USAGE = 2

const COMPARISONS = new Map([
  ['autoregressive', compareAutoregressive],
  ['tokenizer', compareTokenizer],
  ['glyph', compareGlyph],
  ['schedule', compareSchedule],
  ['diffusion', compareDiffusion],
  ['edit', compareEdit],
])

const given = readArguments(process.argv.slice(2))
if (given === null) {
  console.error(USAGE)
  process.exitCode = EXIT_USAGE
} else if (given === 'help') {
  console.log(USAGE)
} else {
  try {
    process.exitCode = (await run(resolve(CALLER_FOLDER, given.dir), given.backend)) ? 0 : 1
  } catch (error) {
    console.error(error instanceof Error ? error.message : String(error))
    process.exitCode = EXIT_USAGE
  }
}

/** @returns null when they are wrong */
function readArguments(
  args: string[],
): { dir: string; backend: Backend | undefined } | 'help' | null {
  try {
    const options = { backend: { type: 'string' }, help: { type: 'boolean' } } as const
    const { values, positionals } = parseArgs({ args, options, allowPositionals: true })
    if (values.help) return 'help'
    const backend = BACKENDS.find((name) => name === values.backend)
    const [dir, ...rest] = positionals
    if (dir === undefined || rest.length > 0 || backend !== values.backend) return null
    return { dir, backend }
  } catch {
    return null
  }
}

/**
 * @returns whether every stage agrees
 * @throws when the folder lacks a file or has nothing to compare: that is no agreement
 */
async function run(folder: string, backend: Backend | undefined): Promise<boolean> {
  const checkpoint = await openCheckpoint(join(folder, 'checkpoint'))
  // One thread is the least that could differ between two machines.
  const options = { compute: 'float32', threads: 1, ...(backend && { backend }) } as const
  const subject = { checkpoint, dir: folder, options }
  const rows: ParityRow[] = []
  const uncovered: string[] = []
  const cases = await readCases(folder)
  for (const parityCase of cases) {
    const compare = COMPARISONS.get(parityCase.kind)
    if (compare) rows.push(...(await compare(subject, parityCase)))
    else uncovered.push(`${parityCase.name}: not covered yet (kind ${parityCase.kind})`)
  }
  const written = cases.find(({ kind }) => kind === 'autoregressive')
  if (written) rows.push(await compareChunks(subject, written))
  if (rows.length === 0) throw new Error(`${join(folder, 'cases')}: no case of a known kind`)
  for (const line of [...formatRows(rows), ...uncovered]) console.log(line)
  const failed = rows.filter((row) => !agrees(row)).length
  console.log(`${rows.length - failed} of ${rows.length} stages agree`)
  return failed === 0
}
