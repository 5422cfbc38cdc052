import { closeDatabase, openDatabase } from '../db/client.ts'
import type { Db, Pool } from '../db/client.ts'
import { announceModel } from '../db/models.ts'
import { consumeJobs } from './consume.ts'
import type { Log } from './consume.ts'
import { consumeDeadLetters } from './dead-letter.ts'
import { createDrain } from './drain.ts'
import type { Drain } from './drain.ts'
import type { Engine } from './engine.ts'
import { bucketPlace, queuePlace, queueUrls, slotsOf } from './env.ts'
import type { WorkerEnv } from './env.ts'
import { startLeaseKeeper } from './lease.ts'
import type { LeaseTimes } from './lease-thread.ts'
import { observeParts } from './observe.ts'
import { openMetrics } from './observing.ts'
import { createTextReader } from './ocr/reader.ts'
import type { TextReader } from './ocr/reader.ts'
import type { ModelInfo } from './pipeline/image-request.ts'
import { createPoke } from './poke.ts'
import { startPresence } from './presence.ts'
import type { JobTimes } from './run-job.ts'
import * as settings from './settings.ts'
import { openQueue } from './sqs.ts'
import type { QueueSettings } from './sqs.ts'
import { createFileStore, createS3Store } from './store.ts'
import type { PictureStore } from './store.ts'

export type WorkerTimes = JobTimes &
  LeaseTimes & { pollSeconds: number; restSeconds: readonly number[] }

export const WORKER_TIMES: WorkerTimes = {
  leaseSeconds: settings.VISIBILITY_SECONDS,
  beatSeconds: settings.BEAT_SECONDS,
  visibilitySeconds: settings.VISIBILITY_SECONDS,
  attemptSeconds: settings.ATTEMPT_SECONDS,
  progressIntervalMs: settings.PROGRESS_INTERVAL_MS,
  retrySeconds: settings.RETRY_DELAYS_SECONDS,
  pollSeconds: settings.LONG_POLL_SECONDS,
  restSeconds: settings.REST_SECONDS,
}

export interface RunningWorker {
  /** Resolves when this process cannot draw any more and should end, so that its supervisor starts another. */
  readonly broken: Promise<void>
  /** Jobs in hand. */
  busy(): number
  /** @param listener told with every change from none to some and back */
  onBusy(listener: (isBusy: boolean) => void): void
  /** Takes nothing more and waits for what can be finished in time; see `Drain`. To be followed by `stop`. */
  leave(withinMs: number): Promise<'done' | 'too_long'>
  /** Takes no new job, gives the one under way back, closes engine and database. Safe to repeat. */
  stop(): Promise<void>
}

/** The claim, one settlement and the dead letters; each beat is a statement of milliseconds. */
const MAX_CONNECTIONS = 4
/** Slots that share one connection more. */
const SLOTS_PER_CONNECTION = 4

export interface WorkerInput {
  env: WorkerEnv
  engine: Engine
  log: Log
  times?: WorkerTimes
  /** In place of the one that `env` names; for tests that break it. */
  store?: PictureStore
  /** In place of the bundled one; for tests that break it. */
  reader?: TextReader
  /** How long opening the engine took, where that is known. */
  loadSeconds?: number
}

/**
 * Puts an engine to work on the queue: announces its model and takes a job for each slot until stopped.
 *
 * @throws when the database cannot be reached
 */
export async function startWorker(input: WorkerInput): Promise<RunningWorker> {
  const { env, log, times = WORKER_TIMES } = input
  const slots = slotsOf(env)
  const db = openDatabase(env.DATABASE_URL, {
    maxConnections: MAX_CONNECTIONS + Math.floor(slots / SLOTS_PER_CONNECTION),
    applicationName: 'glyphpress-worker',
  })
  await announce(db, input.engine.info)
  const place = queuePlace(env)
  const drain = openDrain({ ...place, ...queueUrls(env) }, { times, slots, engine: input.engine })
  const { queue, leases, busy } = drain
  const { parts, observed, figures } = await openParts(input, { drain, pool: db, slots })
  const { pollSeconds } = times
  const shared = { db, ...observed, onSettled: pokeOf(env) }
  const own = { workerId: env.WORKER_ID, slots, times, ...pollTimes(times) }
  const stopping = new AbortController()
  const jobs = consumeJobs({ ...shared, ...own, ...parts, queue, leases }, stopping.signal)
  const letters = env.SQS_DLQ_URL ? openQueue({ ...place, queueUrl: env.SQS_DLQ_URL }) : null
  const dead = letters && consumeDeadLetters({ ...shared, letters, pollSeconds }, stopping.signal)
  const leave = startPresence(db, { id: env.WORKER_ID, slots, busy, log })
  const { model } = input.engine.info
  log({ level: 'info', event: 'ready', worker_id: env.WORKER_ID, model })

  const stop = async () => {
    stopping.abort()
    await Promise.all([jobs, dead, leave()])
    await Promise.all([parts.engine.close(), leases.close(), closeDatabase(db)])
    parts.reader.close()
    figures.close()
    queue.close()
    letters?.close()
  }
  let stopped: Promise<void> | null = null
  return {
    broken: whenBroken(jobs),
    busy,
    onBusy: (listener) => (drain.onBusy = listener),
    leave: (withinMs) => drain.leave(withinMs),
    stop: () => (stopped ??= stop()),
  }
}

/** What jobs work with, under the eyes of whoever reads the figures. */
async function openParts(
  { env, log, store, reader, loadSeconds }: WorkerInput,
  { drain, pool, slots }: { drain: Drain; pool: Pool; slots: number },
) {
  const { metrics, ...figures } = await openMetrics(env, { pool, slots, busy: drain.busy, log })
  if (loadSeconds !== undefined) metrics?.stage('load', loadSeconds)
  const parts = observeParts(
    {
      engine: drain.engine,
      store: store ?? createStore(env),
      reader: reader ?? createTextReader(),
    },
    metrics,
  )
  return { parts, figures, observed: { log, ...(metrics && { metrics }) } }
}

function openDrain(
  queues: QueueSettings,
  { times, slots, engine }: { times: WorkerTimes; slots: number; engine: Engine },
): Drain {
  const attemptSeconds = attemptSecondsOf(times, slots)
  const leases = startLeaseKeeper({ queue: queues, times: { ...times, attemptSeconds } })
  return createDrain({ queue: openQueue(queues), leases, engine })
}

function whenBroken(jobs: ReturnType<typeof consumeJobs>): Promise<void> {
  return new Promise((resolve) => {
    void jobs.then((end) => {
      if (end === 'engine_broken') resolve()
    })
  })
}

/** One picture is painted at a time, so that a job may wait here for all others. */
function attemptSecondsOf({ attemptSeconds }: WorkerTimes, slots: number): number {
  return attemptSeconds + (slots - 1) * settings.PAINT_SECONDS
}

function pollTimes({ pollSeconds, restSeconds, visibilitySeconds }: WorkerTimes) {
  return { pollSeconds, restSeconds, visibilitySeconds }
}

/** Tells the gateway of each settled job, where it can be told. */
function pokeOf({ GATEWAY_URL, POKE_SECRET }: WorkerEnv): () => void {
  return GATEWAY_URL && POKE_SECRET ? createPoke(GATEWAY_URL, POKE_SECRET) : () => {}
}

async function announce(db: Db, info: ModelInfo): Promise<void> {
  const { size } = info
  await announceModel(db, {
    id: info.model,
    size: {
      default: size.default,
      recommended: size.recommended,
      min_side: size.minSide,
      max_side: size.maxSide,
      multiple_of: size.multipleOf,
      max_pixels: size.maxPixels,
    },
    steps: info.steps,
    guidanceScale: info.guidanceScale,
    images: info.images && { max_count: info.images.maxCount },
    notice: info.notice,
    weightsHash: info.weightsHash,
  })
}

function createStore(env: WorkerEnv): PictureStore {
  if (env.S3_BUCKET === undefined) return createFileStore(env.OBJECT_DIR ?? '')
  return createS3Store({ bucket: env.S3_BUCKET, ...bucketPlace(env) })
}
