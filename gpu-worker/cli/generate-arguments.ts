import { extname, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

import type { EngineModel } from '../engine-messages.ts'
import { IMAGE_FORMATS } from '../pipeline/encode.ts'
import type { ImageFormat } from '../pipeline/encode.ts'

export interface GenerateArguments {
  prompt: string
  /** Condition images, absolute. */
  images: string[]
  /** WIDTHxHEIGHT; absent: that of the first image, or the default of the checkpoint. */
  size?: string
  seed?: number
  steps?: number
  guidanceScale?: number
  format: ImageFormat
  /** Absolute. */
  out: string
  /** The JSON file beside `out`: its name and `.json`, so that no two pictures share it. */
  sidecar: string
  engine: EngineModel
}

/** A flag that cannot be used; the message names it and the rule. */
export class UsageError extends Error {
  constructor(message: string, options?: { cause?: unknown }) {
    super(message, options)
    this.name = 'UsageError'
  }
}

export const USAGE = `npm run generate -- --prompt TEXT [options]

  --prompt TEXT      what to draw; text between quotes is drawn as written
  --image FILE       a PNG, JPEG or WebP to edit or to draw on; repeat it for several, which the prompt may number
  --size WxH         in pixels, such as 1280x1280; of an edit the size of the first image when absent
  --seed N           the same seed gives the same picture; random when absent
  --out FILE         .png, .webp, .jpg or .avif; FILE.json, written beside it, says how it was made
  --format NAME      png, webp, jpeg or avif, when the name of FILE does not say it
  --steps N          denoising steps
  --guidance X       guidance scale; 1 or less turns guidance off
  --model DIR        checkpoint folder
  --threads N        processor threads
  --provider NAME    cpu, or cuda, which is not proven
  --help`

const BUNDLED_MODEL = fileURLToPath(new URL('../checkpoint', import.meta.url))

const OPTIONS = {
  prompt: { type: 'string' },
  image: { type: 'string', multiple: true },
  size: { type: 'string' },
  seed: { type: 'string' },
  out: { type: 'string' },
  format: { type: 'string' },
  steps: { type: 'string' },
  guidance: { type: 'string' },
  model: { type: 'string' },
  threads: { type: 'string' },
  provider: { type: 'string' },
  help: { type: 'boolean' },
} as const

/**
 * Reads the command line. Ranges are left to those who know the checkpoint.
 *
 * @param folder what paths are relative to
 * @throws UsageError naming the flag
 */
export function parseArguments(
  args: readonly string[],
  folder: string,
): GenerateArguments | 'help' {
  const flags = readFlags(args)
  if (flags.help) return 'help'
  if (flags.prompt === undefined) throw new UsageError('--prompt is missing')
  if (flags.size !== undefined && !/^\d+x\d+$/.test(flags.size)) {
    throw new UsageError(`--size must look like 1280x1280, not ${flags.size}`)
  }
  const { format, name } = readTarget(flags.out, flags.format)
  const out = resolve(folder, name)
  const threads = toNumber('--threads', flags.threads)
  if (threads !== undefined && (!Number.isInteger(threads) || threads < 1)) {
    throw new UsageError('--threads must be a whole number from 1')
  }
  const { provider } = flags
  if (provider !== undefined && provider !== 'cpu' && provider !== 'cuda') {
    throw new UsageError(`--provider must be cpu or cuda, not ${provider}`)
  }
  const seed = toNumber('--seed', flags.seed)
  const steps = toNumber('--steps', flags.steps)
  const guidanceScale = toNumber('--guidance', flags.guidance)
  return {
    prompt: flags.prompt,
    images: (flags.image ?? []).map((name) => resolve(folder, name)),
    ...(flags.size === undefined ? {} : { size: flags.size }),
    ...(seed === undefined ? {} : { seed }),
    ...(steps === undefined ? {} : { steps }),
    ...(guidanceScale === undefined ? {} : { guidanceScale }),
    format,
    out,
    sidecar: `${out}.json`,
    engine: {
      modelDir: flags.model === undefined ? BUNDLED_MODEL : resolve(folder, flags.model),
      ...(threads === undefined ? {} : { threads }),
      ...(provider === undefined ? {} : { provider }),
    },
  }
}

function readFlags(args: readonly string[]) {
  try {
    return parseArgs({ args: joinValues(args), options: OPTIONS, strict: true }).values
  } catch (cause) {
    throw new UsageError(cause instanceof Error ? cause.message : String(cause), { cause })
  }
}

/** `--flag value` as `--flag=value`: the library takes a value that begins with a dash in no other form. */
function joinValues(args: readonly string[]): string[] {
  const takesValue = (arg: string) => {
    const option = Object.entries(OPTIONS).find(([name]) => arg === `--${name}`)
    return option?.[1].type === 'string'
  }
  const isFlag = (arg: string) =>
    Object.keys(OPTIONS).some((name) => arg === `--${name}` || arg.startsWith(`--${name}=`))
  const joined: string[] = []
  for (let index = 0; index < args.length; index += 1) {
    const arg = args[index] ?? ''
    const next = args[index + 1]
    if (takesValue(arg) && next !== undefined && !isFlag(next)) {
      joined.push(`${arg}=${next}`)
      index += 1
    } else joined.push(arg)
  }
  return joined
}

/** The name of the file and the flag must not contradict each other. */
function readTarget(
  out: string | undefined,
  flag: string | undefined,
): { format: ImageFormat; name: string } {
  if (flag !== undefined && !isFormat(flag)) {
    throw new UsageError(`--format must be one of ${IMAGE_FORMATS.join(', ')}, not ${flag}`)
  }
  if (out === undefined) {
    const format = flag ?? 'png'
    return { format, name: `image.${format === 'jpeg' ? 'jpg' : format}` }
  }
  const suffix = extname(out).slice(1).toLowerCase()
  const named = suffix === 'jpg' ? 'jpeg' : suffix
  if (!isFormat(named)) {
    throw new UsageError(`--out must end in .png, .webp, .jpg or .avif, not ${out}`)
  }
  if (flag !== undefined && flag !== named) {
    throw new UsageError(`--format ${flag} does not fit --out ${out}`)
  }
  return { format: named, name: out }
}

function isFormat(value: string): value is ImageFormat {
  return (IMAGE_FORMATS as readonly string[]).includes(value)
}

function toNumber(flag: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  if (!/^-?\d+(\.\d+)?$/.test(text)) {
    throw new UsageError(`${flag} must be a decimal number, not ${text || 'empty'}`)
  }
  return Number(text)
}
