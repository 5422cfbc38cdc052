import { randomInt } from 'node:crypto'
import { mkdir, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'

import { EngineError, startEngine } from '../engine.ts'
import type { Engine } from '../engine.ts'
import type { ImageResult } from '../pipeline/glm-image.ts'
import { parseArguments, USAGE, UsageError } from './generate-arguments.ts'
import type { GenerateArguments } from './generate-arguments.ts'
import { createProgressDisplay } from './progress.ts'

/** Makes one picture and a JSON file beside it that says how. */

const SEED_END = 2 ** 32
/** Exit codes by convention: wrong usage, and ended by an interrupt. */
const EXIT_USAGE = 2
const EXIT_INTERRUPTED = 130

/** Which flag a field of an invalid request came from. */
const FLAG_OF: Record<string, string> = {
  prompt: '--prompt',
  width: '--size: width',
  height: '--size: height',
  seed: '--seed',
  steps: '--steps',
  guidance_scale: '--guidance',
  format: '--format',
}

try {
  const options = parseArguments(process.argv.slice(2))
  if (options === 'help') console.log(USAGE)
  else await run(options)
} catch (error) {
  console.error(describeError(error))
  process.exitCode = exitCodeOf(error)
}

async function run(options: GenerateArguments): Promise<void> {
  await checkFolder(options.out)
  const engine = await startEngine(options.engine)
  try {
    const result = await generate(engine, options)
    await writeFile(options.out, result.bytes)
    await writeFile(
      options.sidecar,
      `${JSON.stringify(toSidecar(engine, options, result), null, 2)}\n`,
    )
    const { width, height, seed, steps } = result
    console.log(`${options.out}  ${width}x${height}, seed ${seed}, ${steps} steps`)
    console.log(options.sidecar)
    if (engine.info.notice) console.error(engine.info.notice)
  } finally {
    await engine.close()
  }
}

async function generate(engine: Engine, options: GenerateArguments): Promise<ImageResult> {
  const controller = new AbortController()
  const onInterrupt = () => controller.abort()
  process.once('SIGINT', onInterrupt).once('SIGTERM', onInterrupt)
  const display = createProgressDisplay(process.stderr)
  const [width = 0, height = 0] = (options.size ?? engine.info.size.default).split('x').map(Number)
  const request = {
    prompt: options.prompt,
    width,
    height,
    seed: options.seed ?? randomInt(SEED_END),
    format: options.format,
    ...(options.steps === undefined ? {} : { steps: options.steps }),
    ...(options.guidanceScale === undefined ? {} : { guidanceScale: options.guidanceScale }),
  }
  try {
    return await engine.generate(request, {
      signal: controller.signal,
      onProgress: (progress) => display.show(progress),
    })
  } finally {
    display.end()
    process.off('SIGINT', onInterrupt).off('SIGTERM', onInterrupt)
  }
}

/** Everything needed to make the same picture again, in the words of the API. */
function toSidecar(engine: Engine, options: GenerateArguments, result: ImageResult) {
  return {
    model: engine.info.model,
    prompt: options.prompt,
    size: `${result.width}x${result.height}`,
    seed: result.seed,
    steps: result.steps,
    guidance_scale: result.guidanceScale,
    tokens: result.tokenCount,
    content_type: result.contentType,
    size_bytes: result.bytes.length,
    sha256: result.sha256,
    weights_hash: engine.info.weightsHash,
    provider: engine.info.provider,
    timings_ms: result.timingsMs,
    notice: engine.info.notice,
  }
}

/** Found before the work and not after it. */
async function checkFolder(out: string): Promise<void> {
  await mkdir(dirname(out), { recursive: true }).catch((cause: unknown) => {
    throw new UsageError(`--out: folder ${dirname(out)} cannot be made`, { cause })
  })
}

function describeError(error: unknown): string {
  if (error instanceof UsageError) return `${error.message}\n\n${USAGE}`
  if (!(error instanceof EngineError)) return error instanceof Error ? error.message : String(error)
  const flag = error.field === null ? undefined : FLAG_OF[error.field]
  if (flag && error.field) return `${flag}${error.message.slice(error.field.length)}`
  return error.code === 'model_invalid' ? `--model: ${error.message}` : error.message
}

function exitCodeOf(error: unknown): number {
  if (error instanceof UsageError) return EXIT_USAGE
  if (!(error instanceof EngineError)) return 1
  if (error.code === 'canceled') return EXIT_INTERRUPTED
  return error.code === 'invalid_request' || error.code === 'model_invalid' ? EXIT_USAGE : 1
}
