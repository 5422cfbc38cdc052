import { serve } from '@hono/node-server'
import type { Http2Bindings, HttpBindings } from '@hono/node-server'
import { createReserveQueue } from '../../billing/reserve-queue.ts'
import { closeDatabase, openDatabase } from '../../db/client.ts'
import { createApp } from '../app.ts'
import { createCatalogue } from '../catalogue.ts'
import { clientNetwork } from '../client-address.ts'
import type { Deps } from '../deps.ts'
import { createSqsQueue } from '../enqueue.ts'
import { bucketPlace, metricPlace, queuePlace, queueUrls, syncWaitMs } from '../env.ts'
import { createStripeDeps } from '../stripe.ts'
import type { NodeEnv } from '../env.ts'
import { createFleetPublisher } from '../fleet-metrics.ts'
import { createKeyCache } from '../key-cache.ts'
import { createRateLimiter } from '../limits.ts'
import { createLostCalls } from '../lost-calls.ts'
import { createS3Objects } from '../objects.ts'
import type { ObjectStore } from '../objects.ts'
import { observeQueue, observeReserve } from '../observe-calls.ts'
import { createStatusReader } from '../service-status.ts'
import { startSpan } from '../spans.ts'
import type { SweepDeps } from '../sweep.ts'
import { createUploadPlaces } from '../upload-places.ts'
import { createJobWaiter } from '../waiter.ts'
import { createFileObjects } from './file-objects.ts'
import { openMetrics } from './observing.ts'
import { startSweepLoop } from './sweep-loop.ts'
import type { SweepLoop } from './sweep-loop.ts'
import { createNodeWebhookSender } from './webhook-sender.ts'

export interface Gateway {
  /** Where it listens, such as `http://127.0.0.1:8787`. */
  readonly url: string
  /**
   * Takes no new calls, lets running ones end for up to three seconds and the sweep for two, side by side,
   * then ends what they stood on. Safe to repeat.
   */
  stop(): Promise<void>
}

const DRAIN_TIMEOUT_MS = 3_000
/** By then nobody waits for a statement; only one that hangs is still open. */
const DATABASE_CLOSE_SECONDS = 1
const DRAIN_POLL_MS = 50
/** Above the 60 s of common load balancers, which would otherwise reuse a connection that is just closing. */
const KEEP_ALIVE_MS = 65_000
/** Reservations hold a connection for well under a millisecond of work; more would only queue in Postgres. */
const MAX_CONNECTIONS = 16
/** About 1.3 GB at the most, and a few megabytes while uploads are of the usual size. */
const MAX_UPLOADS = 32

/**
 * Starts the gateway with its sweep in this process.
 *
 * @throws with code EADDRINUSE when the port is taken
 */
export async function startGateway(
  env: NodeEnv,
  log: (entry: Record<string, unknown>) => void,
): Promise<Gateway> {
  const db = openDatabase(env.DATABASE_URL, {
    maxConnections: MAX_CONNECTIONS,
    applicationName: 'glyphpress-gateway',
  })
  const isSweeping = env.SWEEP !== '0'
  const { metrics, ...figures } = await openMetrics(env, { pool: db, isSweeping, log })
  const observed = { log, startSpan, ...(metrics && { metrics }) }
  const allowLoopbackWebhooks = env.WEBHOOK_ALLOW_LOOPBACK === '1'
  const sender = createNodeWebhookSender({ allowLoopback: allowLoopbackWebhooks })
  const now = () => new Date()
  const sqs = createSqsQueue(db, { ...queueUrls(env), ...queuePlace(env) })
  const queue = observeQueue(sqs, observed)
  const stripe = createStripeDeps(env, { db, now, log })
  const peppers = { pepper: env.KEY_PEPPER, previousPepper: env.KEY_PEPPER_PREVIOUS }
  const sending = { sendWebhook: sender.send, allowLoopbackWebhooks }
  const shared = { db, now, ...sending, ...peppers, ...observed }
  const base = stripe === undefined ? shared : { ...shared, stripe }
  const objects = createObjects(env)
  const fleet = metricPlace(env)
  const publishFleet = fleet === null ? {} : { publishFleet: createFleetPublisher(fleet) }
  const sweepDeps = { ...base, ...publishFleet, queue, objects }
  const sweep = isSweeping ? startSweep(sweepDeps, log) : NO_SWEEP
  const deps: Deps = {
    ...base,
    publicUrl: env.PUBLIC_URL,
    queue,
    objects,
    keys: createKeyCache(now),
    limiter: createRateLimiter(now),
    catalogue: createCatalogue(now),
    waiter: createJobWaiter(db, log, syncWaitMs(env)),
    lostCalls: createLostCalls(now),
    reserve: observeReserve(createReserveQueue(db), observed),
    uploads: createUploadPlaces(MAX_UPLOADS),
    status: createStatusReader(now),
    pokeSweep: () => sweep.poke(),
    background: (work) => {
      work.catch((error: unknown) =>
        log({ level: 'warn', event: 'background_failed', error: String(error) }),
      )
    },
  }
  const server = await listen(toFetch(deps, env), env)
  let stopped: Promise<void> | null = null
  const stop = async () => {
    // Calls that wait for a picture get its task id now, and not a cut connection.
    deps.waiter.stop()
    await Promise.all([server.close(), sweep.stop(sender.close)])
    await sender.close()
    figures.close()
    await closeDatabase(db, { timeoutSeconds: DATABASE_CLOSE_SECONDS })
  }
  return { url: server.url, stop: () => (stopped ??= stop()) }
}

/** The messages of this gateway's own jobs are sent by it all the same. */
const NO_SWEEP: SweepLoop = { poke: () => {}, stop: () => Promise.resolve() }

function startSweep(deps: SweepDeps, log: (entry: Record<string, unknown>) => void): SweepLoop {
  return startSweepLoop(deps, (part, error) =>
    log({ level: 'warn', event: 'sweep_failed', part, error: String(error) }),
  )
}

/** Where pictures are, by the environment. */
export function createObjects(env: NodeEnv): ObjectStore {
  if (env.S3_BUCKET === undefined) return createFileObjects(env.OBJECT_DIR ?? '')
  return createS3Objects({
    bucket: env.S3_BUCKET,
    isPublic: env.S3_PUBLIC === '1',
    ...bucketPlace(env),
  })
}

type Fetch = (
  request: Request,
  connection: Http2Bindings | HttpBindings,
) => Response | Promise<Response>

/** The app, told where each call comes from. */
function toFetch(deps: Deps, { CLIENT_ADDRESS_HEADER: header }: NodeEnv): Fetch {
  const app = createApp(deps)
  return (request, { incoming }) => {
    const forwarded = header === undefined ? null : request.headers.get(header)
    return app.fetch(request, { network: clientNetwork(incoming.socket.remoteAddress, forwarded) })
  }
}

function listen(fetch: Fetch, env: NodeEnv): Promise<{ url: string; close(): Promise<void> }> {
  return new Promise((resolve, reject) => {
    const server = serve({ fetch, port: env.PORT, hostname: env.HOST }, ({ port }) => {
      resolve({
        url: `http://${env.HOST}:${port}`,
        close: () =>
          new Promise((closed) => {
            const force = setTimeout(() => {
              if ('closeAllConnections' in server) server.closeAllConnections()
            }, DRAIN_TIMEOUT_MS)
            // A connection that carries its last answer now is idle a moment later.
            const idle = setInterval(() => {
              if ('closeIdleConnections' in server) server.closeIdleConnections()
            }, DRAIN_POLL_MS)
            server.close(() => {
              clearTimeout(force)
              clearInterval(idle)
              closed()
            })
          }),
      })
    })
    if ('keepAliveTimeout' in server) server.keepAliveTimeout = KEEP_ALIVE_MS
    server.once('error', reject)
  })
}
