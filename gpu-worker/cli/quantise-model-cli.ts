import { resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { openCheckpoint } from '../model/checkpoint.ts'
import { quantiseWeights } from '../model/quantise.ts'
import { BLOCK_SIZES } from '../model/quantised.ts'
import { CALLER_FOLDER } from './env.ts'
import { watchInterrupts } from './interrupts.ts'

/** Makes the 8-bit weights that `AR_WEIGHTS=int8` reads. */

const DEFAULT_BLOCK = '32'

const USAGE = `Usage: npm run model:quantise -- --model DIR [--block ${BLOCK_SIZES.join('|')}]

Writes the matrices of the writer of visual tokens in 8 bits into DIR/int8, of which AR_WEIGHTS=int8 draws: half the
size of bfloat16, and other pictures. The checkpoint stays as it is. Numbers have one scale for each block of a row (${DEFAULT_BLOCK}).`

const EXIT_USAGE = 2
const EXIT_INTERRUPTED = 130
/** A line at most so often. */
const REPORT_MS = 5_000

const interrupts = watchInterrupts()
try {
  await run(process.argv.slice(2))
} catch (error) {
  console.error(error instanceof Error ? error.message : String(error))
  process.exitCode ??= interrupts.signal.aborted ? EXIT_INTERRUPTED : 1
} finally {
  interrupts.end()
}

async function run(args: string[]): Promise<void> {
  const options = readOptions(args)
  if (options === 'help') return console.log(USAGE)
  const { path, tensors, bytes } = await quantiseWeights(await openCheckpoint(options.dir), {
    blockSize: options.blockSize,
    signal: interrupts.signal,
    onProgress: createReporter(),
  })
  console.log(`${path}: ${tensors} matrices, ${(bytes / 1e9).toFixed(2)} GB`)
  console.log(`AR_WEIGHTS=int8 MODEL_DIR=${options.dir} npm start`)
}

function readOptions(args: string[]): { dir: string; blockSize: number } | 'help' {
  const usage = (problem: string) => {
    process.exitCode = EXIT_USAGE
    return new Error(`${problem}\n\n${USAGE}`)
  }
  let values
  try {
    values = parseArgs({
      args,
      options: {
        model: { type: 'string' },
        block: { type: 'string', default: DEFAULT_BLOCK },
        help: { type: 'boolean', short: 'h' },
      },
    }).values
  } catch (error) {
    throw usage(error instanceof Error ? error.message : String(error))
  }
  if (values.help) return 'help'
  if (values.model === undefined) throw usage('--model is needed')
  const blockSize = BLOCK_SIZES.find((size) => String(size) === values.block)
  if (blockSize === undefined) throw usage(`--block must be one of ${BLOCK_SIZES.join(', ')}`)
  return { dir: resolve(CALLER_FOLDER, values.model), blockSize }
}

function createReporter(): (done: number, total: number) => void {
  let saidAt = -Infinity
  return (done, total) => {
    const now = performance.now()
    if (now - saidAt < REPORT_MS) return
    saidAt = now
    console.log(`${Math.floor((100 * done) / total)} %`)
  }
}
