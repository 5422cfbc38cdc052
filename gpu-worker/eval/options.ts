import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { UsageError } from '../cli/generate-arguments.ts'
import { SUITES } from './protocol.ts'
import type { Suite } from './protocol.ts'

export const USAGE = `npm run eval -- --suite ours|cvtg2k|longtext [options]
npm run eval -- --compare A B

  --suite NAME       ours: this project's prompts; cvtg2k and longtext: as the published benchmarks score
  --prompts FILE     the suite's prompts, a file or a folder of them; repeat it for several. Absent: the sample that
                     comes with the project, whose figures stand beside no published one
  --target WHERE     local, the default, or the address of an API of OpenAI's images protocol; its key is EVAL_API_KEY
  --n N              so many prompts, the first of each number of texts in turn; absent: all
  --per-prompt K     pictures for each prompt
  --size WxH         absent: what the model draws by itself
  --seed N           other pictures of the same prompts
  --model NAME       of a local target its checkpoint folder, of an API the name of its model
  --out DIR          where pictures, results.jsonl, report.json and report.html go. A run that was ended goes on there
  --compare A B      two reports or their folders: what B is better by, with 95 % intervals
  --help`

export type EvalOptions =
  | { kind: 'help' }
  | { kind: 'compare'; reports: [string, string]; seed: number }
  | {
      kind: 'run'
      suite: Suite
      /** Absolute; empty: the bundled ones. */
      prompts: string[]
      target: string
      n: number | null
      perPrompt: number
      size?: string
      seed: number
      model?: string
      modelDir: string
      folder: string
    }

const OPTIONS = {
  suite: { type: 'string' },
  prompts: { type: 'string', multiple: true },
  target: { type: 'string', default: 'local' },
  n: { type: 'string' },
  'per-prompt': { type: 'string', default: '1' },
  size: { type: 'string' },
  seed: { type: 'string', default: '1' },
  model: { type: 'string' },
  out: { type: 'string' },
  compare: { type: 'boolean', default: false },
  help: { type: 'boolean', default: false },
} as const

const BUNDLED_MODEL = fileURLToPath(new URL('../checkpoint', import.meta.url))

/**
 * Reads the command line.
 *
 * @param folder what paths are relative to
 * @throws UsageError naming the option
 */
export function parseEvalOptions(args: readonly string[], folder: string): EvalOptions {
  const { values, positionals } = readFlags(args)
  if (values.help) return { kind: 'help' }
  const seed = toCount('--seed', values.seed, 0)
  if (values.compare) {
    const [a, b, ...more] = positionals
    if (a === undefined || b === undefined || more.length > 0) {
      throw new UsageError('--compare takes two reports')
    }
    return { kind: 'compare', reports: [resolve(folder, a), resolve(folder, b)], seed }
  }
  if (positionals.length > 0) throw new UsageError(`${positionals[0]} belongs to no option`)
  const suite = SUITES.find((name) => name === values.suite)
  if (suite === undefined) throw new UsageError(`--suite must be one of ${SUITES.join(', ')}`)
  const { size, target, model } = values
  if (size !== undefined && !/^\d+x\d+$/.test(size)) {
    throw new UsageError(`--size must look like 1280x1280, not ${size}`)
  }
  const isLocal = target === 'local'
  if (!isLocal && !/^https?:\/\//.test(target)) {
    throw new UsageError('--target must be local, or begin with http:// or https://')
  }
  const place = values.out ?? `eval-${suite}-${isLocal ? 'local' : new URL(target).hostname}`
  return {
    kind: 'run',
    suite,
    prompts: (values.prompts ?? []).map((path) => resolve(folder, path)),
    target,
    n: values.n === undefined ? null : toCount('--n', values.n, 1),
    perPrompt: toCount('--per-prompt', values['per-prompt'], 1),
    ...(size === undefined ? {} : { size }),
    seed,
    ...(isLocal || model === undefined ? {} : { model }),
    modelDir: isLocal && model !== undefined ? resolve(folder, model) : BUNDLED_MODEL,
    folder: resolve(folder, place),
  }
}

function readFlags(args: readonly string[]) {
  try {
    return parseArgs({ args: [...args], options: OPTIONS, strict: true, allowPositionals: true })
  } catch (cause) {
    throw new UsageError(cause instanceof Error ? cause.message : String(cause), { cause })
  }
}

function toCount(name: string, text: string, least: number): number {
  const value = Number(text)
  if (/^\d+$/.test(text) && value >= least && Number.isSafeInteger(value)) return value
  throw new UsageError(`${name} must be a whole number from ${least}, not ${text}`)
}
