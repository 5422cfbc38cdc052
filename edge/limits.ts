import { createMiddleware } from 'hono/factory'
import type { Deps, RequestState } from './deps.ts'
import { ApiError } from './errors.ts'

export interface LimitVerdict {
  allowed: boolean
  /** Requests that could be made at once from here. */
  remaining: number
  /** Until one more is allowed (refused) or all are (allowed). */
  resetSeconds: number
}

/** Counts requests per key in this process: a shield and a contract limit, never an account of money. */
export interface RateLimiter {
  take(key: string, requestsPerMinute: number): LimitVerdict
  /** Seconds until `take` would allow one more; 0: now. Counts nothing. */
  waitSeconds(key: string, requestsPerMinute: number): number
}

/** What a key without a limit of its own may do. Reading a status every second and more fits in it. */
const DEFAULT_REQUESTS_PER_MINUTE = 600
/** The longest wait that common clients obey. */
const MAX_RETRY_AFTER_SECONDS = 60
/** About 2 MB at the most. */
const MAX_TRACKED_KEYS = 20_000

/**
 * A generic cell rate limiter: a full minute's allowance may be used in a burst and comes back evenly.
 *
 * @source ITU-T I.371, virtual scheduling
 */
export function createRateLimiter(now: () => Date): RateLimiter {
  const theoreticalArrivals = new Map<string, number>()
  return {
    take(key, requestsPerMinute) {
      // A limit of nothing has no rate; it is refused without being counted.
      if (requestsPerMinute <= 0) return { allowed: false, remaining: 0, resetSeconds: 60 }
      const at = now().getTime()
      const intervalMs = 60_000 / requestsPerMinute
      const arrival = Math.max(theoreticalArrivals.get(key) ?? at, at)
      const waitMs = arrival - at - (60_000 - intervalMs)
      if (waitMs > 0) {
        return { allowed: false, remaining: 0, resetSeconds: Math.ceil(waitMs / 1000) }
      }
      if (theoreticalArrivals.size >= MAX_TRACKED_KEYS) forgetIdle(theoreticalArrivals, at)
      const next = arrival + intervalMs
      theoreticalArrivals.set(key, next)
      return {
        allowed: true,
        remaining: Math.floor((60_000 - (next - at)) / intervalMs),
        resetSeconds: Math.ceil((next - at) / 1000),
      }
    },
    waitSeconds(key, requestsPerMinute) {
      const at = now().getTime()
      const arrival = theoreticalArrivals.get(key) ?? at
      const waitMs = arrival - at - (60_000 - 60_000 / requestsPerMinute)
      return Math.max(0, Math.ceil(waitMs / 1000))
    },
  }
}

/** Refuses a key's requests above its rate and states limit and rest in every answer. */
export function limitRate(deps: Deps) {
  return createMiddleware<RequestState>(async (c, next) => {
    const principal = c.get('principal')
    const limit = principal.requestsPerMinute ?? DEFAULT_REQUESTS_PER_MINUTE
    const verdict = deps.limiter.take(principal.keyId, limit)
    const headers = {
      'ratelimit-policy': `"requests";q=${limit};w=60`,
      ratelimit: `"requests";r=${verdict.remaining};t=${verdict.resetSeconds}`,
    }
    if (!verdict.allowed) {
      const waitSeconds = Math.min(verdict.resetSeconds, MAX_RETRY_AFTER_SECONDS)
      throw new ApiError('rate_limited', {
        message: `The key makes more than ${limit} requests per minute; try again in ${waitSeconds} s.`,
        data: { reason: 'rate', limit, resets_in_seconds: verdict.resetSeconds },
        headers: { ...headers, 'retry-after': String(waitSeconds) },
      })
    }
    await next()
    for (const [name, value] of Object.entries(headers)) {
      const others = c.res.headers.get(name)
      c.res.headers.set(name, others === null ? value : `${value}, ${others}`)
    }
  })
}

/** The limit on unfinished jobs and the places left, beside the limit on requests in the same fields. */
export function inflightHeaders(places: {
  inflight: number
  maxInflight: number
}): Record<'ratelimit-policy' | 'ratelimit', string> {
  const { inflight, maxInflight } = places
  return {
    'ratelimit-policy': `"inflight";q=${maxInflight}`,
    ratelimit: `"inflight";r=${Math.max(0, maxInflight - inflight)}`,
  }
}

/** Entries whose allowance is whole again say nothing; if none is, the oldest half goes. */
function forgetIdle(arrivals: Map<string, number>, at: number): void {
  for (const [key, arrival] of arrivals) if (arrival <= at) arrivals.delete(key)
  let surplus = arrivals.size - MAX_TRACKED_KEYS / 2
  for (const key of arrivals.keys()) {
    if (surplus-- <= 0) break
    arrivals.delete(key)
  }
}
