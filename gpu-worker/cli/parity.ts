import { join, resolve } from 'node:path'

import { openCheckpoint } from '../model/checkpoint.ts'
import { compareAutoregressive, compareChunks, compareTokenizer } from '../parity/autoregressive.ts'
import { readCases } from '../parity/cases.ts'
import { compareEdit } from '../parity/edit.ts'
import { compareDiffusion, compareGlyph, compareSchedule } from '../parity/diffusion.ts'
import { agrees, formatRows, TOLERANCE } from '../parity/report.ts'
import type { ParityRow } from '../parity/report.ts'
import { CALLER_FOLDER } from './env.ts'

/** Compares every stage with tensors that the reference implementation wrote. */

const USAGE = `npm run parity -- DIR

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

const [dir, ...rest] = process.argv.slice(2)
if (dir === undefined || dir.startsWith('-') || rest.length > 0) {
  if (dir === '--help') {
    console.log(USAGE)
  } else {
    console.error(USAGE)
    process.exitCode = EXIT_USAGE
  }
} else {
  try {
    process.exitCode = (await run(resolve(CALLER_FOLDER, dir))) ? 0 : 1
  } catch (error) {
    console.error(error instanceof Error ? error.message : String(error))
    process.exitCode = EXIT_USAGE
  }
}

/**
 * @returns whether every stage agrees
 * @throws when the folder lacks a file or has nothing to compare: that is no agreement
 */
async function run(folder: string): Promise<boolean> {
  const checkpoint = await openCheckpoint(join(folder, 'checkpoint'))
  const rows: ParityRow[] = []
  const uncovered: string[] = []
  const cases = await readCases(folder)
  for (const parityCase of cases) {
    const compare = COMPARISONS.get(parityCase.kind)
    if (compare) rows.push(...(await compare(checkpoint, folder, parityCase)))
    else uncovered.push(`${parityCase.name}: not covered yet (kind ${parityCase.kind})`)
  }
  const written = cases.find(({ kind }) => kind === 'autoregressive')
  if (written) rows.push(await compareChunks(checkpoint, written))
  if (rows.length === 0) throw new Error(`${join(folder, 'cases')}: no case of a known kind`)
  for (const line of [...formatRows(rows), ...uncovered]) console.log(line)
  const failed = rows.filter((row) => !agrees(row)).length
  console.log(`${rows.length - failed} of ${rows.length} stages agree`)
  return failed === 0
}
