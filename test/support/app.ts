import { createReserveQueue } from '../../billing/reserve-queue.ts'
import { createApp } from '../../edge/app.ts'
import { createCatalogue } from '../../edge/catalogue.ts'
import type { Deps } from '../../edge/deps.ts'
import { createKeyCache } from '../../edge/key-cache.ts'
import { createLostCalls } from '../../edge/lost-calls.ts'
import { createRateLimiter } from '../../edge/limits.ts'
import type { ObjectStore } from '../../edge/objects.ts'
import type { Db } from '../../db/client.ts'
import { createStatusReader } from '../../edge/service-status.ts'
import { createUploadPlaces } from '../../edge/upload-places.ts'
import { createJobWaiter } from '../../edge/waiter.ts'
import { TEST_PEPPER } from './pepper.ts'

export interface TestApp {
  /** One request to the gateway, in this process. */
  call(method: string, url: string, options?: CallOptions): Promise<Response>
  /** What it logged. */
  logged: Record<string, unknown>[]
  /** How often the sweep was asked to run now. */
  pokes: () => number
}

/** A store that has nothing and takes everything. */
export const NO_OBJECTS: ObjectStore = {
  read: () => Promise.resolve(null),
  remove: () => Promise.resolve(),
  putInput: () => Promise.resolve(),
  removeInputs: () => Promise.resolve(),
  removeOldInputs: () => Promise.resolve(0),
}

export interface CallOptions {
  apiKey?: string
  body?: unknown
  headers?: Record<string, string>
  /** Where the call comes from, as the entry on Node would say. */
  network?: string
}

/** What the gateway works with on a database, with the parts that a test replaces. */
export function createTestDeps(db: Db, changes: Partial<Deps> & Pick<Deps, 'objects'>): Deps {
  const now = changes.now ?? (() => new Date())
  const log = changes.log ?? (() => {})
  return {
    db,
    pepper: TEST_PEPPER,
    publicUrl: 'https://images.example',
    now,
    queue: { send: async () => {} },
    keys: createKeyCache(now),
    limiter: createRateLimiter(now),
    catalogue: createCatalogue(now),
    waiter: createJobWaiter(db, log),
    lostCalls: createLostCalls(now),
    reserve: createReserveQueue(db),
    uploads: createUploadPlaces(32),
    status: createStatusReader(now),
    sendWebhook: () => Promise.reject(new Error('no webhook is expected here')),
    allowLoopbackWebhooks: false,
    pokeSweep: () => {},
    background: (work) => {
      void work.catch(() => {})
    },
    log,
    ...changes,
  }
}

/** The gateway's app on a database, with the parts that a test replaces. */
export function createTestApp(db: Db, changes: Partial<Deps> & Pick<Deps, 'objects'>): TestApp {
  const logged: Record<string, unknown>[] = []
  let pokes = 0
  const app = createApp(
    createTestDeps(db, {
      log: (entry) => {
        logged.push(entry)
      },
      pokeSweep: () => {
        pokes += 1
      },
      ...changes,
    }),
  )
  return {
    logged,
    pokes: () => pokes,
    async call(method, url, options = {}) {
      const init = {
        method,
        headers: {
          ...(options.apiKey === undefined ? {} : { authorization: `Bearer ${options.apiKey}` }),
          ...(options.body === undefined ? {} : { 'content-type': 'application/json' }),
          ...options.headers,
        },
        ...(options.body === undefined ? {} : { body: JSON.stringify(options.body) }),
      }
      return app.request(url, init, { network: options.network })
    },
  }
}
