import { isOutage } from '../db/outage.ts'
import { recordOutput } from '../db/job-claims.ts'
import { drawChecked } from './draw-checked.ts'
import type { CheckedPicture } from './draw-checked.ts'
import { EngineError } from './engine.ts'
import { InputGoneError, readInputs } from './inputs.ts'
import { insist } from './insist.ts'
import type { ImageResult } from './pipeline/glm-image.ts'
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
  for (let idx = 0; idx < job.n; idx++) {
    if (outputs.some((output) => output.idx === idx)) continue
    signal.throwIfAborted()
    const draw = (seed: number) => generate(attempt, { idx, seed, images })
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

async function generate(
  attempt: Attempt,
  { idx, seed, images }: { idx: number; seed: number; images: Uint8Array[] },
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
  }
  const onProgress = (progress: object) => note({ ...progress, image: idx })
  return untilStopped(engine.generate(request, { signal, onProgress }), signal)
}

/** A leaving worker does not wait for the engine to notice; in all other cases the engine must be idle again. */
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
