import { readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { UsageError } from '../cli/generate-arguments.ts'
import { CALLER_FOLDER } from '../cli/env.ts'
import { watchInterrupts } from '../cli/interrupts.ts'
import { createTextReader } from '../ocr/reader.ts'
import { compareReports, toLines } from './compare.ts'
import { claimFolder } from './folder.ts'
import { parseEvalOptions, USAGE } from './options.ts'
import type { EvalOptions } from './options.ts'
import { createEvalProgress } from './progress.ts'
import { BUNDLED, PromptFileError, readPrompts, takeInTurn } from './prompts.ts'
import { reportSchema } from './report.ts'
import type { EvalReport } from './report.ts'
import { runEval } from './run.ts'
import { openTarget } from './targets.ts'

/** Measures how well a model or an API spells. */

const EXIT_USAGE = 2
const EXIT_INTERRUPTED = 130

try {
  const options = parseEvalOptions(process.argv.slice(2), CALLER_FOLDER)
  if (options.kind === 'help') console.log(USAGE)
  else if (options.kind === 'compare') await compare(options)
  else await run(options)
} catch (error) {
  console.error(error instanceof Error ? error.message : String(error))
  process.exitCode =
    error instanceof UsageError || error instanceof PromptFileError ? EXIT_USAGE : 1
}

async function compare({ reports, seed }: EvalOptions & { kind: 'compare' }): Promise<void> {
  const [a, b] = [await readReport(reports[0]), await readReport(reports[1])]
  console.log(`A  ${a.model} at ${a.target}, ${a.items.length} pictures`)
  console.log(`B  ${b.model} at ${b.target}, ${b.items.length} pictures`)
  for (const line of toLines(compareReports(a, b, seed))) console.log(line)
}

async function readReport(path: string): Promise<EvalReport> {
  const isFolder = (await stat(path).catch(() => null))?.isDirectory() ?? false
  const file = isFolder ? join(path, 'report.json') : path
  try {
    return reportSchema.parse(JSON.parse(await readFile(file, 'utf8')))
  } catch (cause) {
    throw new UsageError(`${file} is no report of this command`, { cause })
  }
}

async function run(options: EvalOptions & { kind: 'run' }): Promise<void> {
  const { suite, folder, target: place, perPrompt, seed } = options
  const files = options.prompts.length > 0 ? options.prompts : [BUNDLED[suite]]
  const all = await readPrompts(suite, files)
  const prompts = options.n === null ? all : takeInTurn(all, options.n)
  const { size = null, model = null, modelDir } = options
  await claimFolder(folder, { suite, target: place, size, model: model ?? modelDir, seed })
  const interrupts = watchInterrupts()
  const apiKey = process.env['EVAL_API_KEY']
  const target = await openTarget({ ...options, ...(apiKey === undefined ? {} : { apiKey }) })
  const reader = createTextReader()
  const progress = createEvalProgress(process.stderr)
  try {
    const report = await runEval({
      suite,
      prompts,
      perPrompt,
      seed,
      folder,
      target,
      reader,
      signal: interrupts.signal,
      onProgress: (...step) => progress.show(...step),
      about: {
        prompts: files,
        target: place,
        model: target.model,
        weightsHash: target.weightsHash,
        notice: target.notice,
        ocr: { engine: reader.engine, version: reader.version },
        isPublishedSet: options.prompts.length > 0,
      },
    })
    progress.end()
    tell(report, folder)
    if (interrupts.signal.aborted) process.exitCode = EXIT_INTERRUPTED
  } finally {
    progress.end()
    reader.close()
    interrupts.end()
    await target.close()
  }
}

function tell(report: EvalReport, folder: string): void {
  const share = (value: number | null) => (value === null ? '-' : value.toFixed(4))
  const rows = [
    ...report.byRegions.map(({ group, score }) => ({ name: `${group} texts`, score })),
    { name: 'all', score: report.overall },
  ]
  for (const { name, score } of rows) {
    const { pictures, words, accuracy, ned } = score
    console.log(
      `${name.padEnd(9)} ${String(pictures).padStart(5)} pictures ${String(words).padStart(6)} words  accuracy ${share(accuracy)}  NED ${share(ned)}`,
    )
  }
  if (report.notice !== null) console.log(`The model says of itself: ${report.notice}`)
  console.log(join(folder, 'report.html'))
}
