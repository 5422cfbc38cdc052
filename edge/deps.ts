import type { Reserve } from '../billing/reserve-queue.ts'
import type { StripeDeps } from '../billing/stripe/client.ts'
import type { Db } from '../db/client.ts'
import type { KeyPrincipal } from '../db/keys.ts'
import type { Catalogue } from './catalogue.ts'
import type { DispatchQueue } from './enqueue.ts'
import type { KeyCache } from './key-cache.ts'
import type { RateLimiter } from './limits.ts'
import type { LostCalls } from './lost-calls.ts'
import type { Metrics } from './metrics.ts'
import type { ObjectStore } from './objects.ts'
import type { Peppers } from './pepper.ts'
import type { StatusReader } from './service-status.ts'
import type { StartSpan } from './tracing.ts'
import type { UploadPlaces } from './upload-places.ts'
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
  /** Accepts a job. On Node one writer for each org; on Workers no request may wait for another's. */
  readonly reserve: Reserve
  readonly uploads: UploadPlaces
  readonly status: StatusReader
  readonly sendWebhook: SendWebhook
  /** Whether webhooks may go to this machine itself; only the embedded default says yes. */
  readonly allowLoopbackWebhooks: boolean
  /** Payments and invoices; absent where Stripe is not set up. */
  readonly stripe?: StripeDeps
  /** Runs the due work now, after the response; see `sweepOnce`. */
  readonly pokeSweep: () => void
  /** Lets work go on after the response; failures are logged, never thrown. */
  readonly background: (work: Promise<unknown>) => void
  readonly log: (entry: Record<string, unknown>) => void
  /** Absent where nobody reads them. */
  readonly metrics?: Metrics
  /** Absent: nobody collects spans. */
  readonly startSpan?: StartSpan
}

/** Which request something comes from. */
export interface Origin {
  requestId: string
  /** Where the spans of what follows belong; undefined where nobody traces. */
  traceparent: string | undefined
}

/** What Hono carries with a request. */
export interface RequestState {
  /** `network`: where the call comes from, as `clientNetwork` says; only where the entry knows it. */
  Bindings: { network?: string | undefined }
  Variables: { requestId: string; origin: Origin; principal: KeyPrincipal }
}
