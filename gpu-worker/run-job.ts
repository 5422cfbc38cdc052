import { OVERDUE } from '../billing/expire.ts'
import { settleJob } from '../billing/settle.ts'
import type { SettleInput } from '../billing/settle.ts'
import type { Db } from '../db/client.ts'
import { claimJob, giveBackJob } from '../db/job-claims.ts'
import type { JobRow, OutputRow } from '../db/jobs.ts'
import { startBeats } from './beats.ts'
import type { StopReason } from './beats.ts'
import type { Engine } from './engine.ts'
import { removeInputs } from './inputs.ts'
import { insist } from './insist.ts'
import type { Lease } from './lease.ts'
import { causeOf, makePictures } from './make-pictures.ts'
import type { WorkerMetrics } from './metrics.ts'
import { measure } from './observe.ts'
import type { TextReader } from './ocr/reader.ts'
import type { ImageResult } from './pipeline/image-request.ts'
import { MAX_RECEIVES, retrySecondsAfter } from './settings.ts'
import type { PictureStore } from './store.ts'
import { describeActive } from './tracing.ts'

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
  /** Reads the pictures of jobs that want their texts checked. */
  readonly reader: TextReader
  readonly workerId: string
  readonly times: JobTimes
  readonly log: (entry: Record<string, unknown>) => void
  /** Absent where nobody reads them. */
  readonly metrics?: WorkerMetrics
}

/** What became of a delivery; only the first two mean that its message is of no use any more. */
export type JobEnd =
  | { outcome: 'settled'; state: string; delivered: number }
  | { outcome: 'gone' }
  /** Another worker is on it: show the message again after so long. */
  | { outcome: 'busy'; againSeconds: number }
  /** The job waits for another try. With `isWorkerSick` the cause is this worker, which should pause. */
  | { outcome: 'given_back'; againSeconds: number; errorCode?: string; isWorkerSick?: true }
  /** The job belongs to somebody else by now; nothing was written. */
  | { outcome: 'superseded' }

export interface JobCall {
  /** Of the message. */
  lease: Pick<Lease, 'signal' | 'renew'>
  /** Aborted when this worker has to leave. */
  stop: AbortSignal
  /** Told of the job once it is this worker's. */
  onClaim?: (job: JobRow) => void
}

/** One claim of one job. */
export interface Attempt extends JobDeps {
  readonly job: JobRow
  /** What earlier attempts stored. */
  readonly outputs: readonly OutputRow[]
  /** What this attempt stored. */
  readonly made: ImageResult[]
  /** Aborted with a `StopReason` when the attempt has to end. */
  readonly signal: AbortSignal
  /** Aborted when the worker has to leave. */
  readonly stop: AbortSignal
  readonly note: (progress: Record<string, unknown>) => void
  /** To be called after each picture, stored or to be drawn again: the time of an attempt is that of one picture. */
  readonly onPicture: () => void
  /** Time on the engine that went into pictures which were not kept. */
  readonly spent: { redrawMs: number }
}

/**
 * Works on one job: claims it, makes and stores every picture that is still missing, settles it.
 *
 * Every write names the claimed attempt, so a worker that lost the job changes nothing. Pictures stored by an
 * earlier attempt are kept and not made again. Safe to call for the same job any number of times, at the
 * same time too. A database that goes away meanwhile is waited for, so that nothing made is lost.
 *
 * @throws when the database cannot be reached; the job then comes back when its lease runs out
 */
export async function runJob(
  deps: JobDeps,
  jobId: string,
  { lease, stop, onClaim }: JobCall,
): Promise<JobEnd> {
  const { db, times, metrics } = deps
  const claim = await measure(metrics, 'claim', () =>
    claimJob(db, {
      jobId,
      workerId: deps.workerId,
      leaseSeconds: times.leaseSeconds,
      maxFailedAttempts: MAX_RECEIVES,
    }),
  )
  const settleFor = (end: Omit<SettleInput, 'jobId' | 'attempt'>) =>
    settle({ ...deps, stop }, { jobId, attempt: null, ...end })
  switch (claim.outcome) {
    case 'gone':
      return { outcome: 'gone' }
    case 'busy':
      return { outcome: 'busy', againSeconds: Math.max(1, Math.ceil(claim.leftSeconds) + 1) }
    case 'canceled':
      return settleFor({ outcome: 'canceled' })
    case 'overdue':
      return settleFor(OVERDUE)
    case 'exhausted':
      return settleFor(exhaustedOutcome())
    case 'claimed': {
      const { job, outputs } = claim
      const { attempt } = job
      onClaim?.(job)
      noteClaim(job, metrics)
      const log = (entry: Record<string, unknown>) =>
        deps.log({ ...requestFields(job.requestId), ...entry })
      const beats = startBeats({ db, jobId, attempt, times, lease: lease.signal, stop })
      const { signal, note } = beats
      const onPicture = () => lease.renew()
      const own = { job, outputs, made: [], spent: { redrawMs: 0 } }
      try {
        return await finish({ ...deps, ...own, log, signal, stop, note, onPicture })
      } finally {
        beats.end()
      }
    }
  }
}

/** A job's own words in a log line: the id of the request that made it, where it is known. */
export function requestFields(requestId: string | null): { request_id?: string } {
  return requestId === null ? {} : { request_id: requestId }
}

function noteClaim(
  { attempt, priority, createdAt, startedAt, requestId }: JobRow,
  metrics: WorkerMetrics | undefined,
): void {
  describeActive({
    'glyphpress.attempt': attempt,
    ...(requestId !== null && { 'glyphpress.request_id': requestId }),
  })
  // Both moments are by the database's clock.
  const waitMs = (startedAt ?? createdAt).getTime() - createdAt.getTime()
  if (attempt === 1) metrics?.queueWait(priority, waitMs / 1_000)
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
  const { signal } = attempt
  try {
    if ((await makePictures(attempt)) === 'superseded') return { outcome: 'superseded' }
  } catch (error) {
    if (signal.aborted) return endStopped(attempt, signal.reason as StopReason)
    return endFailed(attempt, error)
  }
  return settleOwn(attempt, { outcome: 'succeeded', runInfo: runInfoOf(attempt) })
}

async function endStopped(attempt: Attempt, reason: StopReason): Promise<JobEnd> {
  switch (reason) {
    case 'superseded':
      return { outcome: 'superseded' }
    case 'canceled':
      return settleOwn(attempt, { outcome: 'canceled' })
    case 'expired':
      return settleOwn(attempt, OVERDUE)
    case 'deadline': {
      const failure = { code: 'attempt_timeout', message: 'The attempt took too long.' }
      // One that stored a picture got on, and the picture that hung is not known to hang again.
      return attempt.made.length === 0
        ? retryLater(attempt, failure)
        : giveBack(attempt, { countFailure: false, againSeconds: 0, code: failure.code })
    }
    case 'stop':
      return giveBack(attempt, { countFailure: false, againSeconds: 0 })
    case 'lost':
      return giveBack(attempt, { countFailure: false, againSeconds: 0, isWorkerSick: true })
  }
}

async function endFailed(attempt: Attempt, error: unknown): Promise<JobEnd> {
  const { cause, code } = causeOf(error)
  const message = error instanceof Error ? error.message : String(error)
  switch (cause) {
    case 'request':
      return settleOwn(attempt, { outcome: 'failed', errorCode: code, errorMessage: message })
    case 'leaving':
      return giveBack(attempt, { countFailure: false, againSeconds: 0 })
    case 'worker':
      attempt.log({ level: 'error', event: 'worker_sick', job: attempt.job.id, code, message })
      return giveBack(attempt, { countFailure: false, againSeconds: 0, isWorkerSick: true, code })
    case 'picture':
      return retryLater(attempt, { code, message })
  }
}

/** Counts a failure; the last one that is allowed ends the job. */
function retryLater(attempt: Attempt, failure: { code: string; message: string }): Promise<JobEnd> {
  const { job, times } = attempt
  attempt.log({ level: 'warn', event: 'attempt_failed', job: job.id, ...failure })
  const againSeconds = retrySecondsAfter(job.failedAttempts, times.retrySeconds)
  if (againSeconds === null) return settleOwn(attempt, exhaustedOutcome())
  return giveBack(attempt, { countFailure: true, againSeconds, code: failure.code })
}

async function giveBack(
  attempt: Attempt,
  options: { countFailure: boolean; againSeconds: number; isWorkerSick?: true; code?: string },
): Promise<JobEnd> {
  const { db, job } = attempt
  const { countFailure, againSeconds, isWorkerSick, code } = options
  const errorCode = code === undefined ? {} : { errorCode: code }
  const isOurs = await insist(attempt, job.id, () =>
    giveBackJob(db, { jobId: job.id, attempt: job.attempt, countFailure, ...errorCode }),
  )
  if (!isOurs) return { outcome: 'superseded' }
  return {
    outcome: 'given_back',
    againSeconds,
    ...errorCode,
    ...(isWorkerSick && { isWorkerSick }),
  }
}

async function settleOwn(
  attempt: Attempt,
  end: Omit<SettleInput, 'jobId' | 'attempt'>,
): Promise<JobEnd> {
  const { job } = attempt
  const ended = await settle(attempt, { jobId: job.id, attempt: job.attempt, ...end })
  if (ended.outcome === 'settled') await removeInputs(attempt)
  return ended
}

async function settle(deps: JobDeps & Pick<Attempt, 'stop'>, input: SettleInput): Promise<JobEnd> {
  const { metrics } = deps
  const result = await measure(metrics, 'settle', () =>
    insist(deps, input.jobId, () => settleJob(deps.db, input)),
  )
  metrics?.settled(result, input.errorCode)
  if (result.outcome === 'superseded') return { outcome: 'superseded' }
  return { outcome: 'settled', state: result.state, delivered: result.deliveredCount }
}

function runInfoOf({ engine, made, spent }: Attempt): Record<string, unknown> {
  const first = made[0]
  const totalMs = made.reduce(
    (sum, { timingsMs }) => sum + (timingsMs['total'] ?? 0),
    spent.redrawMs,
  )
  return {
    weights_hash: engine.info.weightsHash,
    provider: engine.info.provider,
    ...(engine.info.stepCache && { step_cache: engine.info.stepCache }),
    ...(engine.info.firstBlockCache && { first_block_cache: engine.info.firstBlockCache }),
    ...(engine.info.arWeights && { ar_weights: engine.info.arWeights }),
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
