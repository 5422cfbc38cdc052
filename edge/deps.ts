import type { Db } from '../db/client.ts'
import type { KeyPrincipal } from '../db/keys.ts'
import type { Catalogue } from './catalogue.ts'
import type { DispatchQueue } from './enqueue.ts'
import type { KeyCache } from './key-cache.ts'
import type { RateLimiter } from './limits.ts'
import type { LostCalls } from './lost-calls.ts'
import type { ObjectStore } from './objects.ts'
import type { Peppers } from './pepper.ts'
import type { JobWaiter } from './waiter.ts'
import type { SendWebhook } from './deliver.ts'

/**
 * What the gateway works with. On Node one for the process; on Workers one per request, with the caches
 * (keys, limits, catalogue) kept by the isolate.
 */
export interface Deps extends Peppers {
  readonly db: Db
  /** Origin of result URLs, such as `https://images.example.com`. */
  readonly publicUrl: string
  readonly now: () => Date
  readonly queue: DispatchQueue
  readonly objects: ObjectStore
  readonly keys: KeyCache
  readonly limiter: RateLimiter
  /** Whether this request may go on to be looked at; only where the platform has such a shield. */
  readonly shield?: (request: Request) => Promise<boolean>
  readonly catalogue: Catalogue
  readonly waiter: JobWaiter
  readonly lostCalls: LostCalls
  readonly sendWebhook: SendWebhook
  /** Whether webhooks may go to this machine itself; only the embedded default says yes. */
  readonly allowLoopbackWebhooks: boolean
  /** Runs the due work now, after the response; see `sweepOnce`. */
  readonly pokeSweep: () => void
  /** Lets work go on after the response; failures are logged, never thrown. */
  readonly background: (work: Promise<unknown>) => void
  readonly log: (entry: Record<string, unknown>) => void
}

/** What Hono carries with a request. */
export interface RequestState {
  /** `network`: where the call comes from, as `clientNetwork` says; only where the entry knows it. */
  Bindings: { network?: string | undefined }
  Variables: { requestId: string; principal: KeyPrincipal }
}
