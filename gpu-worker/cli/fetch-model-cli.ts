import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { fetchModel } from '../hub/fetch-model.ts'
import { HubError } from '../hub/hub-error.ts'
import { CALLER_FOLDER } from './env.ts'
import { watchInterrupts } from './interrupts.ts'

/** Fetches a model from a hub, for people with a network. */

const USAGE = `Usage: npm run model:fetch -- OWNER/NAME [--dir FOLDER] [--revision BRANCH] [--endpoint URL]

Fetches every file of a model repository into FOLDER (.glyphpress/models/NAME), checks it against the hub's checksums, and goes on
where an earlier call ended. The folder can be given as MODEL_DIR. A repository that is not open to everybody needs
HF_TOKEN; HF_ENDPOINT names another hub than huggingface.co.`

const DEFAULT_ENDPOINT = 'https://huggingface.co'
const EXIT_USAGE = 2
const EXIT_INTERRUPTED = 130
/** A line at most so often. */
const REPORT_MS = 5_000

try {
  await run(process.argv.slice(2))
} catch (error) {
  console.error(error instanceof Error ? error.message : String(error))
  if (process.exitCode === undefined) process.exitCode = 1
}

async function run(args: string[]): Promise<void> {
  const options = readOptions(args)
  if (options === 'help') return console.log(USAGE)
  const interrupts = watchInterrupts()
  const { dir, ...place } = options
  console.log(`${place.repository} -> ${dir}`)
  try {
    const report = await fetchModel(place, dir, {
      signal: interrupts.signal,
      onProgress: createReporter(),
    })
    const gigabytes = (report.bytes / 1e9).toFixed(1)
    console.log(
      `${report.files} files, ${gigabytes} GB, ${report.fetched} of them fetched; commit ${report.commit}`,
    )
    console.log(`MODEL_DIR=${dir} npm start`)
  } catch (error) {
    if (!interrupts.signal.aborted) throw error
    process.exitCode = EXIT_INTERRUPTED
    throw new HubError('unreachable', 'interrupted; another call goes on from here')
  } finally {
    interrupts.end()
  }
}

function readOptions(args: string[]) {
  const usage = (problem: string) => {
    process.exitCode = EXIT_USAGE
    return new Error(`${problem}\n\n${USAGE}`)
  }
  let parsed
  try {
    parsed = parseArgs({
      args,
      allowPositionals: true,
      options: {
        dir: { type: 'string' },
        revision: { type: 'string', default: 'main' },
        endpoint: { type: 'string' },
        help: { type: 'boolean', short: 'h' },
      },
    })
  } catch (error) {
    throw usage(error instanceof Error ? error.message : String(error))
  }
  const { values, positionals } = parsed
  if (values.help) return 'help'
  const [repository = '', ...others] = positionals
  if (others.length > 0 || !/^[\w.-]+\/[\w.-]+$/.test(repository)) {
    throw usage('one repository is needed, as OWNER/NAME')
  }
  const token = process.env['HF_TOKEN']
  const endpoint = values.endpoint ?? (process.env['HF_ENDPOINT'] || DEFAULT_ENDPOINT)
  const dir = values.dir ?? join('.glyphpress', 'models', repository.split('/')[1] ?? '')
  return {
    endpoint: endpoint.replace(/\/+$/, ''),
    repository,
    revision: values.revision,
    dir: resolve(CALLER_FOLDER, dir),
    ...(token ? { token } : {}),
  }
}

function createReporter(): (done: number, total: number) => void {
  let saidAt = -Infinity
  return (done, total) => {
    const now = performance.now()
    if (now - saidAt < REPORT_MS && done < total) return
    saidAt = now
    const percent = total === 0 ? 100 : Math.floor((100 * done) / total)
    console.log(`${(done / 1e9).toFixed(2)} of ${(total / 1e9).toFixed(2)} GB, ${percent} %`)
  }
}
