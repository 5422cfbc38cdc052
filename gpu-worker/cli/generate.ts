import { createHash, randomInt } from 'node:crypto'

import { toEngineError } from '../engine-error.ts'
import type { EngineErrorCode } from '../engine-error.ts'
import { startEngine } from '../engine.ts'
import { openCheckpoint } from '../model/checkpoint.ts'
import { readSize } from '../model/serving.ts'
import type { ImageRequest, ImageResult, ModelInfo, Progress } from '../pipeline/image-request.ts'
import { planRequest } from '../pipeline/plan-request.ts'
import { CALLER_FOLDER } from './env.ts'
import { parseArguments, USAGE, UsageError } from './generate-arguments.ts'
import type { GenerateArguments } from './generate-arguments.ts'
import { watchInterrupts } from './interrupts.ts'
import { openOutputFiles } from './output-files.ts'
import { createProgressDisplay } from './progress.ts'
import { readSourceFiles } from './source-files.ts'

/** Makes one picture and a JSON file beside it that says how. */

const SEED_END = 2 ** 32
/** Exit codes by convention: wrong usage, and ended by an interrupt. */
const EXIT_USAGE = 2
const EXIT_INTERRUPTED = 130

/** What another command line would cure. */
const USAGE_CODES: ReadonlySet<EngineErrorCode> = new Set([
  'invalid_request',
  'model_invalid',
  'provider_unavailable',
])

/** Which flag a field of an invalid request came from. */
const FLAG_OF: Record<string, string> = {
  prompt: '--prompt',
  images: '--image',
  width: '--size: width',
  height: '--size: height',
  seed: '--seed',
  steps: '--steps',
  guidance_scale: '--guidance',
  format: '--format',
}

try {
  const options = parseArguments(process.argv.slice(2), CALLER_FOLDER)
  if (options === 'help') console.log(USAGE)
  else await run(options)
} catch (error) {
  console.error(describeError(error))
  process.exitCode = exitCodeOf(error)
}

/** What can be wrong is found in the order of its cost: flags, checkpoint, place of the files, model. */
async function run(options: GenerateArguments): Promise<void> {
  const checkpoint = await openCheckpoint(options.engine.modelDir)
  const request = toRequest(options, await readSourceFiles(options.images))
  await planRequest(checkpoint, request)
  const interrupts = watchInterrupts()
  const files = await openOutputFiles(options)
  try {
    const { info, result } = await generate(options, request, interrupts.signal)
    const sidecar = toSidecar(info, { ...options, files: request.images ?? [] }, result)
    await files.finish(result.bytes, `${JSON.stringify(sidecar, null, 2)}\n`)
    const { width, height, seed, steps } = result
    console.log(`${options.out}  ${width}x${height}, seed ${seed}, ${steps} steps`)
    console.log(options.sidecar)
    if (info.notice) console.error(info.notice)
  } finally {
    await files.discard()
    interrupts.end()
  }
}

function toRequest(options: GenerateArguments, images: readonly Uint8Array[]): ImageRequest {
  return {
    prompt: options.prompt,
    ...(images.length === 0 ? {} : { images }),
    ...(options.size === undefined ? {} : readSize(options.size)),
    seed: options.seed ?? randomInt(SEED_END),
    format: options.format,
    ...(options.steps === undefined ? {} : { steps: options.steps }),
    ...(options.guidanceScale === undefined ? {} : { guidanceScale: options.guidanceScale }),
  }
}

async function generate(
  options: GenerateArguments,
  request: ImageRequest,
  signal: AbortSignal,
): Promise<{ info: ModelInfo; result: ImageResult }> {
  const engine = await startEngine({ ...options.engine, signal })
  const display = createProgressDisplay(process.stderr)
  try {
    const onProgress = (progress: Progress) => display.show(progress)
    return { info: engine.info, result: await engine.generate(request, { signal, onProgress }) }
  } finally {
    display.end()
    await engine.close()
  }
}

/** Everything needed to make the same picture again, in the words of the API. */
function toSidecar(
  info: ModelInfo,
  { prompt, images, files }: GenerateArguments & { files: readonly Uint8Array[] },
  result: ImageResult,
) {
  const sources = images.map((file, index) => ({ file, sha256: toSha256(files[index]) }))
  return {
    model: info.model,
    prompt,
    ...(sources.length === 0 ? {} : { images: sources }),
    size: `${result.width}x${result.height}`,
    seed: result.seed,
    steps: result.steps,
    guidance_scale: result.guidanceScale,
    tokens: result.tokenCount,
    content_type: result.contentType,
    size_bytes: result.bytes.length,
    sha256: result.sha256,
    weights_hash: info.weightsHash,
    provider: info.provider,
    timings_ms: result.timingsMs,
    notice: info.notice,
  }
}

function toSha256(bytes: Uint8Array = new Uint8Array()): string {
  return createHash('sha256').update(bytes).digest('hex')
}

function describeError(error: unknown): string {
  if (error instanceof UsageError) return `${error.message}\n\n${USAGE}`
  const { code, field, message } = toEngineError(error)
  const flag = field === null ? undefined : FLAG_OF[field]
  if (flag && field) return `${flag}${message.slice(field.length)}`
  if (code === 'model_invalid') return `--model: ${message}`
  return code === 'provider_unavailable' ? `--provider: ${message}` : message
}

function exitCodeOf(error: unknown): number {
  if (error instanceof UsageError) return EXIT_USAGE
  const { code } = toEngineError(error)
  if (code === 'canceled') return EXIT_INTERRUPTED
  return USAGE_CODES.has(code) ? EXIT_USAGE : 1
}
