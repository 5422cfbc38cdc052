import type {
  ExecutionContext,
  Hyperdrive,
  RateLimit,
  ScheduledController,
} from '@cloudflare/workers-types'
import { reserveJob } from '../billing/reserve.ts'
import { closeDatabase, openDatabase } from '../db/client.ts'
import { createId } from '../db/ids.ts'
import { createApp } from './app.ts'
import { createCatalogue } from './catalogue.ts'
import type { Deps } from './deps.ts'
import { createSqsQueue } from './enqueue.ts'
import {
  bucketPlace,
  metricPlace,
  parseWorkersEnv,
  queuePlace,
  queueUrls,
  syncWaitMs,
} from './env.ts'
import type { WorkersEnv } from './env.ts'
import { ApiError, errorResponse } from './errors.ts'
import { createFleetPublisher } from './fleet-metrics.ts'
import type { PublishFleet } from './fleet-metrics.ts'
import { createKeyCache } from './key-cache.ts'
import { createRateLimiter } from './limits.ts'
import { createLostCalls } from './lost-calls.ts'
import { createS3Objects } from './objects.ts'
import { observeQueue, observeReserve } from './observe-calls.ts'
import { createStatusReader } from './service-status.ts'
import { startSpan } from './spans.ts'
import { createStripeDeps } from './stripe.ts'
import { sweepOnce } from './sweep.ts'
import { createUploadPlaces } from './upload-places.ts'
import { createJobWaiter } from './waiter.ts'
import { startWorkersTracing } from './workers-tracing.ts'
import type { WorkersTracing } from './workers-tracing.ts'
import { createWorkersWebhookSender } from './workers-webhook-sender.ts'

interface Bindings {
  /** Pool near the database; its cache must be off, because money and keys go through it. */
  HYPERDRIVE?: Hyperdrive
  /** Counts requests of one address at one location; blunts floods and counts nothing that is paid for. */
  SHIELD?: RateLimit
}

/** An isolate has 128 MB. */
const MAX_UPLOADS = 2

const now = () => new Date()
// Memory of the isolate: none of it holds a connection, so requests may share it.
const keys = createKeyCache(now)
const limiter = createRateLimiter(now)
const catalogue = createCatalogue(now)
const lostCalls = createLostCalls(now)
const uploads = createUploadPlaces(MAX_UPLOADS)
const status = createStatusReader(now)
let tracing: WorkersTracing | null = null
/** The checked environment, or what is wrong with it: it is the same for as long as the isolate lives. */
let checked: { env: WorkersEnv } | { error: unknown } | null = null

/** One request needs one connection; a page of jobs a few. Workers allow six at once. */
const MAX_CONNECTIONS = 4

function log(entry: Record<string, unknown>): void {
  console.log(JSON.stringify(entry))
}

function readEnv(bindings: Bindings): WorkersEnv {
  if (checked === null) {
    try {
      checked = { env: parseWorkersEnv(bindings) }
    } catch (error) {
      checked = { error }
    }
  }
  if ('error' in checked) throw checked.error
  return checked.env
}

/** Null where nobody collects spans; one for as long as the isolate lives. */
function openTracing(env: WorkersEnv): WorkersTracing | null {
  const { OTEL_EXPORTER_OTLP_ENDPOINT: endpoint, OTEL_EXPORTER_OTLP_HEADERS: headers = {} } = env
  const { OTEL_SERVICE_NAME: serviceName, OTEL_TRACES_SAMPLER_ARG: ratio } = env
  if (endpoint === undefined) return null
  return (tracing ??= startWorkersTracing({ endpoint, headers, serviceName, ratio }, log))
}

/** One call or cron: what it works with, and how it ends. */
interface Call {
  readonly deps: Deps
  /** Once what was left for after the answer is done, sends the spans of all of it. Never throws. */
  readonly end: () => Promise<void>
}

function openCall(bindings: Bindings, context: ExecutionContext): Call {
  const env = readEnv(bindings)
  const spans = openTracing(env)
  const pending = new Set<Promise<unknown>>()
  const deps = createDeps(bindings, {
    env,
    background: (work) => {
      const done = work
        .catch((error: unknown) =>
          log({ level: 'warn', event: 'background_failed', error: String(error) }),
        )
        .finally(() => pending.delete(done))
      pending.add(done)
      context.waitUntil(done)
    },
  })
  const end = async () => {
    while (pending.size > 0) await Promise.all(pending)
    await spans?.flush()
  }
  return { deps, end }
}

function createDeps(
  bindings: Bindings,
  { env, background }: Pick<Deps, 'background'> & { env: WorkersEnv },
): Deps {
  const db = openDatabase(bindings.HYPERDRIVE?.connectionString ?? env.DATABASE_URL ?? '', {
    maxConnections: MAX_CONNECTIONS,
    applicationName: 'glyphpress-edge',
  })
  const sqs = createSqsQueue(db, { ...queueUrls(env), ...queuePlace(env) })
  const queue = observeQueue(sqs, { startSpan })
  const stripe = createStripeDeps(env, { db, now, log })
  const deps: Deps = {
    db,
    ...(stripe === undefined ? {} : { stripe }),
    pepper: env.KEY_PEPPER,
    previousPepper: env.KEY_PEPPER_PREVIOUS,
    publicUrl: env.PUBLIC_URL,
    now,
    queue,
    objects: createS3Objects({
      bucket: env.S3_BUCKET,
      isPublic: env.S3_PUBLIC === '1',
      ...bucketPlace(env),
    }),
    keys,
    limiter,
    catalogue,
    waiter: createJobWaiter(db, log, syncWaitMs(env)),
    lostCalls,
    reserve: observeReserve((input) => reserveJob(db, input), { startSpan }),
    uploads,
    status,
    ...(bindings.SHIELD === undefined ? {} : { shield: createShield(bindings.SHIELD) }),
    sendWebhook: createWorkersWebhookSender(),
    allowLoopbackWebhooks: false,
    pokeSweep: () => deps.background(runSweep(deps)),
    background,
    startSpan,
    log,
  }
  return deps
}

/** Open when the platform's counter fails: the limits of keys and budgets stand behind it. */
function createShield(binding: RateLimit): (request: Request) => Promise<boolean> {
  return async (request) => {
    const address = request.headers.get('cf-connecting-ip')
    if (address === null) return true
    try {
      return (await binding.limit({ key: address })).success
    } catch (error) {
      log({ level: 'warn', event: 'shield_failed', error: String(error) })
      return true
    }
  }
}

async function runSweep(deps: Deps, publishFleet?: PublishFleet): Promise<void> {
  const report = await sweepOnce({ ...deps, ...(publishFleet && { publishFleet }) })
  for (const [part, outcome] of Object.entries(report)) {
    if (outcome instanceof Error) {
      log({ level: 'warn', event: 'sweep_failed', part, error: String(outcome) })
    }
  }
}

/** The answer of a Worker that cannot start. What is wrong with it, names and never values, is for its operator. */
function refuseToStart(error: unknown): Response {
  const requestId = createId('request')
  log({ level: 'error', event: 'start_failed', request_id: requestId, error: String(error) })
  return errorResponse(new ApiError('internal'), requestId)
}

/** The Worker: `fetch` serves the API, `scheduled` runs the sweep every minute. */
export default {
  async fetch(request: Request, bindings: Bindings, context: ExecutionContext): Promise<Response> {
    let call: Call
    try {
      call = openCall(bindings, context)
    } catch (error) {
      return refuseToStart(error)
    }
    const response = await createApp(call.deps, { isBuiltPerRequest: true }).fetch(request)
    context.waitUntil(call.end())
    return response
  },
  async scheduled(_: ScheduledController, bindings: Bindings, context: ExecutionContext) {
    const { deps, end } = openCall(bindings, context)
    const metrics = metricPlace(readEnv(bindings))
    await runSweep(deps, metrics === null ? undefined : createFleetPublisher(metrics))
    await end()
    await closeDatabase(deps.db)
  },
}
