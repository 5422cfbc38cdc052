import { isOutage } from '../db/outage.ts'
import { recordOutput } from '../db/job-claims.ts'
import { keepTokens, readTokens } from '../db/job-tokens.ts'
import { drawChecked } from './draw-checked.ts'
import type { CheckedPicture } from './draw-checked.ts'
import { EngineError } from './engine.ts'
import { InputGoneError, readInputs } from './inputs.ts'
import { insist } from './insist.ts'
import type { ImageResult } from './pipeline/image-request.ts'
import type { Attempt } from './run-job.ts'
import { objectKeyOf } from './store.ts'

/** A picture was made and could not be stored, or one to work from could not be read. */
class StoreError extends Error {
  readonly code = 'store_failed'
}

/**
 * Makes, stores and notes every picture that the job still lacks, in order.
 *
 * @returns `superseded` when the job is no longer this attempt's; the object stored last is removed then
 * @throws what `causeOf` sorts; with the attempt's signal aborted, that is the reason
 */
export async function makePictures(attempt: Attempt): Promise<'done' | 'superseded'> {
  const { job, outputs, signal } = attempt
  const images = await fetchInputs(attempt)
  const written = await findTokens(attempt)
  for (let idx = 0; idx < job.n; idx++) {
    if (outputs.some((output) => output.idx === idx)) continue
    signal.throwIfAborted()
    const tokens = written.get(idx)
    // A picture that is drawn again has tokens of its own; another attempt begins with the first ones.
    const draw = (seed: number, isFirst: boolean) =>
      generate(attempt, {
        idx,
        seed,
        images,
        isKept: isFirst,
        ...(isFirst && tokens && { tokens }),
      })
    const picture = await drawChecked(attempt, idx, draw)
    if (!(await keep(attempt, idx, picture))) return 'superseded'
    attempt.made.push(picture.result)
    attempt.onPicture()
  }
  return 'done'
}

/**
 * Who is to blame for an error of `makePictures`: the request, which no try can help; this worker, of which the
 * job knows nothing; the picture, which may succeed on another try; or nobody, because the engine was closed.
 */
export function causeOf(error: unknown): {
  cause: 'request' | 'worker' | 'picture' | 'leaving'
  code: string
} {
  if (error instanceof InputGoneError) return { cause: 'request', code: error.code }
  if (error instanceof StoreError) return { cause: 'worker', code: error.code }
  if (isOutage(error)) return { cause: 'worker', code: 'database_away' }
  if (!(error instanceof EngineError)) return { cause: 'picture', code: 'worker_error' }
  const { code } = error
  switch (code) {
    case 'invalid_request':
      return { cause: 'request', code }
    case 'engine_closed':
      return { cause: 'leaving', code }
    case 'model_invalid':
    case 'provider_unavailable':
    case 'engine_start_failed':
    case 'engine_busy':
    case 'engine_unreachable':
      return { cause: 'worker', code }
    case 'canceled':
    case 'engine_crashed':
    case 'engine_timeout':
    case 'engine_failed':
      return { cause: 'picture', code }
  }
}

async function fetchInputs(attempt: Attempt): Promise<Uint8Array[]> {
  try {
    return await readInputs(attempt)
  } catch (cause) {
    if (cause instanceof InputGoneError) throw cause
    const text = cause instanceof Error ? cause.message : String(cause)
    throw new StoreError(`an input could not be read: ${text}`, { cause })
  }
}

/** What earlier attempts wrote before something ended them. */
async function findTokens(attempt: Attempt): Promise<ReadonlyMap<number, Int32Array>> {
  const { db, job, engine } = attempt
  if (job.attempt === 1) return new Map()
  return await readTokens(db, { jobId: job.id, weightsHash: engine.info.weightsHash })
}

interface Drawing {
  idx: number
  seed: number
  images: Uint8Array[]
  /** Of this seed, from an earlier attempt. */
  tokens?: Int32Array
  /** Whether its tokens are kept for another attempt. */
  isKept: boolean
}

async function generate(
  attempt: Attempt,
  { idx, seed, images, tokens, isKept }: Drawing,
): Promise<ImageResult> {
  const { engine, job, signal, note } = attempt
  const request = {
    // The prompt is taken away only from finished jobs.
    prompt: job.prompt ?? '',
    width: job.width,
    height: job.height,
    seed,
    format: job.format,
    ...(job.steps === null ? {} : { steps: job.steps }),
    ...(job.guidanceScale === null ? {} : { guidanceScale: job.guidanceScale }),
    ...(images.length === 0 ? {} : { images }),
    ...(tokens && { tokens }),
  }
  const onProgress = (progress: object) => note({ ...progress, image: idx })
  let keeping = Promise.resolve()
  const onTokens = (own: Int32Array) => {
    keeping = keepForLater(attempt, idx, own)
  }
  // What ended an attempt may end the engine, and with it the jobs beside this one; so it comes to them once at most.
  const hooks = { signal, onProgress, ...(isKept && { onTokens }), alone: job.failedAttempts > 0 }
  try {
    return await untilStopped(engine.generate(request, hooks), signal)
  } finally {
    // A job that was given back takes no tokens any more.
    await keeping
  }
}

/** The painter goes on meanwhile. Tokens that cannot be kept only cost another attempt the writing. */
async function keepForLater(attempt: Attempt, idx: number, tokens: Int32Array): Promise<void> {
  const { db, job, engine, log } = attempt
  const { weightsHash } = engine.info
  try {
    await keepTokens(db, { jobId: job.id, attempt: job.attempt, idx, weightsHash, tokens })
  } catch (error) {
    log({ level: 'warn', event: 'tokens_not_kept', job: job.id, error: String(error) })
  }
}

/** A leaving worker does not wait for the engine to notice; in all other cases the engine must have let go of it. */
async function untilStopped<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  let onAbort: (() => void) | undefined
  const stopped = new Promise<never>((_resolve, reject) => {
    onAbort = () => {
      if (signal.reason === 'stop') reject(new EngineError('canceled', 'the worker is leaving'))
    }
    signal.addEventListener('abort', onAbort, { once: true })
  })
  try {
    return await Promise.race([work, stopped])
  } finally {
    if (onAbort) signal.removeEventListener('abort', onAbort)
    work.catch(() => {})
  }
}

/** Stores and notes one picture. @returns false when the job is no longer this attempt's */
async function keep(attempt: Attempt, idx: number, picture: CheckedPicture): Promise<boolean> {
  const { db, store, job, signal } = attempt
  const { result, textCheck, unbilledReason } = picture
  const place = { jobId: job.id, attempt: job.attempt, idx, format: job.format }
  const objectKey = objectKeyOf({ ...result, ...place })
  try {
    await store.put({ ...result, ...place }, signal)
  } catch (cause) {
    // The bytes may have arrived all the same, and nothing will ever name them.
    await discard(attempt, objectKey)
    const text = cause instanceof Error ? cause.message : String(cause)
    throw new StoreError(`the picture could not be stored: ${text}`, { cause })
  }
  const { sha256, contentType, width, height, seed } = result
  const sizeBytes = result.bytes.length
  const about = { sha256, contentType, width, height, seed, sizeBytes }
  const output = { idx, objectKey, ...about, textCheck, unbilledReason }
  const { owned, kept } = await insist(attempt, job.id, () =>
    recordOutput(db, { jobId: job.id, attempt: job.attempt, output }),
  )
  if (!kept) await discard(attempt, objectKey)
  return owned
}

/** What cannot be removed now goes with the rest when its job is deleted. */
async function discard({ store, job, log }: Attempt, objectKey: string): Promise<void> {
  try {
    await store.remove(objectKey)
  } catch (error) {
    const event = 'object_left_behind'
    log({ level: 'warn', event, job: job.id, object: objectKey, error: String(error) })
  }
}
