import { setTimeout as wait } from 'node:timers/promises'
import { settleJob } from '../billing/settle.ts'
import type { SettleInput } from '../billing/settle.ts'
import type { Db } from '../db/client.ts'
import { claimJob, giveBackJob, recordOutput } from '../db/job-claims.ts'
import type { JobRow, OutputRow } from '../db/jobs.ts'
import { startBeats } from './beats.ts'
import type { StopReason } from './beats.ts'
import { EngineError } from './engine.ts'
import type { Engine } from './engine.ts'
import type { ImageResult } from './pipeline/glm-image.ts'
import { MAX_RECEIVES } from './settings.ts'
import type { PictureStore } from './store.ts'

export interface JobTimes {
  leaseSeconds: number
  beatSeconds: number
  progressIntervalMs: number
  /** By number of failures so far; the last one repeats. */
  retrySeconds: readonly number[]
}

export interface JobDeps {
  readonly db: Db
  readonly engine: Engine
  readonly store: PictureStore
  readonly workerId: string
  readonly times: JobTimes
  readonly log: (entry: Record<string, unknown>) => void
}

/** What became of a delivery; only the first two mean that its message is of no use any more. */
export type JobEnd =
  | { outcome: 'settled'; state: string; delivered: number }
  | { outcome: 'gone' }
  /** Another worker is on it, or the job waits for another try: show the message again after so long. */
  | { outcome: 'busy' | 'given_back'; againSeconds: number; errorCode?: string }
  /** The job belongs to somebody else by now; nothing was written. */
  | { outcome: 'superseded' }

/** Each is safe to repeat; together they stay within the lease. */
const SETTLE_TRIES = 5
const SETTLE_PAUSE_MS = 500

interface Attempt extends JobDeps {
  readonly job: JobRow
  readonly outputs: OutputRow[]
  readonly signal: AbortSignal
  readonly note: (progress: Record<string, unknown>) => void
}

/**
 * Works on one job: claims it, makes and stores every picture that is still missing, settles it.
 *
 * Every write names the claimed attempt, so a worker that lost the job changes nothing. Pictures stored by an
 * earlier attempt are kept and not made again. Safe to call for the same job any number of times, at the
 * same time too.
 *
 * @param lease aborted when the message is lost (`lost`) or the attempt took too long (`deadline`)
 * @param stop aborted when this worker has to leave
 * @throws when the database cannot be reached; the job then comes back when its lease runs out
 */
export async function runJob(
  deps: JobDeps,
  jobId: string,
  { lease, stop }: { lease: AbortSignal; stop: AbortSignal },
): Promise<JobEnd> {
  const { db, times } = deps
  const claim = await claimJob(db, {
    jobId,
    workerId: deps.workerId,
    leaseSeconds: times.leaseSeconds,
    maxFailedAttempts: MAX_RECEIVES,
  })
  switch (claim.outcome) {
    case 'gone':
      return { outcome: 'gone' }
    case 'busy': {
      const leftSeconds = Math.ceil((claim.leaseUntil.getTime() - Date.now()) / 1_000)
      return { outcome: 'busy', againSeconds: Math.max(1, leftSeconds + 1) }
    }
    case 'exhausted':
      return settle(deps, { jobId, attempt: null, ...exhaustedOutcome() })
    case 'claimed': {
      const { job, outputs } = claim
      const beats = startBeats({
        db,
        jobId,
        attempt: job.attempt,
        deadlineAt: job.deadlineAt,
        times,
        lease,
        stop,
      })
      try {
        return await finish({ ...deps, job, outputs, signal: beats.signal, note: beats.note })
      } finally {
        await beats.end()
      }
    }
  }
}

/** How a job ends that failed too often. */
export function exhaustedOutcome(): Pick<SettleInput, 'outcome' | 'errorCode' | 'errorMessage'> {
  return {
    outcome: 'failed',
    errorCode: 'worker_failed',
    errorMessage: `The image could not be made in ${MAX_RECEIVES} attempts.`,
  }
}

async function finish(attempt: Attempt): Promise<JobEnd> {
  const { job, signal } = attempt
  try {
    const made = await makePictures(attempt)
    if (made === 'superseded') return { outcome: 'superseded' }
    return await settle(attempt, {
      jobId: job.id,
      attempt: job.attempt,
      outcome: 'succeeded',
      runInfo: runInfoOf(attempt, made),
    })
  } catch (error) {
    if (signal.aborted) return endStopped(attempt, signal.reason as StopReason)
    return endFailed(attempt, error)
  }
}

async function makePictures(attempt: Attempt): Promise<ImageResult[] | 'superseded'> {
  const { db, engine, store, job, outputs, signal, note } = attempt
  const made: ImageResult[] = []
  for (let idx = 0; idx < job.n; idx++) {
    if (outputs.some((output) => output.idx === idx)) continue
    signal.throwIfAborted()
    const request = {
      // The prompt is taken away only from finished jobs.
      prompt: job.prompt ?? '',
      width: job.width,
      height: job.height,
      seed: (job.seed + idx) % 2 ** 32,
      format: job.format,
      ...(job.steps === null ? {} : { steps: job.steps }),
      ...(job.guidanceScale === null ? {} : { guidanceScale: job.guidanceScale }),
    }
    const onProgress = (progress: object) => note({ ...progress, image: idx })
    const result = await untilStopped(engine.generate(request, { signal, onProgress }), signal)
    const { sha256, contentType, width, height, seed } = result
    const objectKey = await store.put({ ...result, format: job.format })
    const output = { idx, objectKey, sha256, contentType, width, height, seed }
    const isOurs = await recordOutput(db, {
      jobId: job.id,
      attempt: job.attempt,
      output: { ...output, sizeBytes: result.bytes.length },
    })
    if (!isOurs) return 'superseded'
    made.push(result)
  }
  return made
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

async function endStopped(attempt: Attempt, reason: StopReason): Promise<JobEnd> {
  const { job } = attempt
  switch (reason) {
    case 'superseded':
      return { outcome: 'superseded' }
    case 'canceled':
      return settle(attempt, { jobId: job.id, attempt: job.attempt, outcome: 'canceled' })
    case 'expired':
      return settle(attempt, {
        jobId: job.id,
        attempt: job.attempt,
        outcome: 'expired',
        errorCode: 'deadline_exceeded',
        errorMessage: 'The job did not finish before its deadline.',
      })
    case 'deadline':
      return retryLater(attempt, 'attempt_timeout', 'The attempt took too long.')
    case 'stop':
    case 'lost':
      return giveBack(attempt, { countFailure: false, againSeconds: 0 })
  }
}

async function endFailed(attempt: Attempt, error: unknown): Promise<JobEnd> {
  const { job } = attempt
  if (error instanceof EngineError && error.code === 'invalid_request') {
    return settle(attempt, {
      jobId: job.id,
      attempt: job.attempt,
      outcome: 'failed',
      errorCode: error.code,
      errorMessage: error.message,
    })
  }
  if (error instanceof EngineError && error.code === 'engine_closed') {
    return giveBack(attempt, { countFailure: false, againSeconds: 0 })
  }
  const code = error instanceof EngineError ? error.code : 'worker_error'
  return retryLater(attempt, code, error instanceof Error ? error.message : String(error))
}

/** Counts a failure; the last one that is allowed ends the job. */
function retryLater(attempt: Attempt, code: string, message: string): Promise<JobEnd> {
  const { job, times } = attempt
  attempt.log({ level: 'warn', event: 'attempt_failed', job: job.id, code, message })
  if (job.failedAttempts + 1 >= MAX_RECEIVES) {
    return settle(attempt, { jobId: job.id, attempt: job.attempt, ...exhaustedOutcome() })
  }
  const againSeconds = times.retrySeconds[job.failedAttempts] ?? times.retrySeconds.at(-1) ?? 0
  return giveBack(attempt, { countFailure: true, againSeconds, code })
}

async function giveBack(
  { db, job }: Attempt,
  options: { countFailure: boolean; againSeconds: number; code?: string },
): Promise<JobEnd> {
  const { countFailure, againSeconds, code } = options
  const isOurs = await giveBackJob(db, {
    jobId: job.id,
    attempt: job.attempt,
    countFailure,
    ...(code === undefined ? {} : { errorCode: code }),
  })
  if (!isOurs) return { outcome: 'superseded' }
  return {
    outcome: 'given_back',
    againSeconds,
    ...(code === undefined ? {} : { errorCode: code }),
  }
}

/** The pictures are made and stored: a short absence of the database must not cost them. */
async function settle({ db, log }: JobDeps, input: SettleInput): Promise<JobEnd> {
  for (let tries = 1; ; tries++) {
    try {
      const result = await settleJob(db, input)
      if (result.outcome === 'superseded') return { outcome: 'superseded' }
      return { outcome: 'settled', state: result.state, delivered: result.deliveredCount }
    } catch (error) {
      if (tries >= SETTLE_TRIES) throw error
      log({ level: 'warn', event: 'settle_failed', job: input.jobId, error: String(error) })
      await wait(tries * SETTLE_PAUSE_MS)
    }
  }
}

function runInfoOf({ engine }: Attempt, made: readonly ImageResult[]): Record<string, unknown> {
  const first = made[0]
  const totalMs = made.reduce((sum, { timingsMs }) => sum + (timingsMs['total'] ?? 0), 0)
  return {
    weights_hash: engine.info.weightsHash,
    provider: engine.info.provider,
    engine_seconds: Math.round(totalMs) / 1_000,
    ...(first === undefined
      ? {}
      : {
          steps: first.steps,
          guidance_scale: first.guidanceScale,
          tokens: first.tokenCount,
          timings_ms: first.timingsMs,
        }),
  }
}
