import type { KeyPrincipal } from '../db/keys.ts'
import { createRateLimiter } from './limits.ts'

/** Remembers for seconds who a key belongs to; money asks the database again in any case. */
export interface KeyCache {
  get(name: string): KeyPrincipal | null | undefined
  set(name: string, principal: KeyPrincipal | null): void
  /**
   * Seconds until a look-up of this token may be made for a caller from this network; 0: now. A token that has
   * opened the API is looked up whatever others from its network do.
   */
  waitSeconds(token: string, network: string | undefined): number
  /** Notes how a look-up ended. */
  note(token: string, network: string | undefined, hasOpened: boolean): void
}

/** A revoked key may still read for this long. It starts no job: the reservation checks the key itself. */
const POSITIVE_TTL_MS = 5_000
/** Short, so that a key works at once after it was made, long enough to blunt a client that retries. */
const NEGATIVE_TTL_MS = 2_000
/** Each costs a hash and a query. Four clients that repeat one wrong key as fast as it is forgotten stay below. */
const FAILURES_PER_MINUTE = 120
/** Of each kind; together about 10 MB at the most. */
const MAX_REMEMBERED = 10_000

/**
 * A bounded cache in memory. Known keys, unknown ones and those that have opened are kept apart, so that a flood
 * of one kind drives out none of another; in each the one that was noted longest ago goes first.
 */
export function createKeyCache(now: () => Date): KeyCache {
  const known = new Map<string, { principal: KeyPrincipal; until: number }>()
  const unknown = new Map<string, number>()
  const opened = new Map<string, true>()
  const failures = createRateLimiter(now)
  return {
    get(name) {
      const at = now().getTime()
      const entry = known.get(name)
      if (entry && entry.until > at) return entry.principal
      return (unknown.get(name) ?? 0) > at ? null : undefined
    },
    set(name, principal) {
      const at = now().getTime()
      if (principal) {
        unknown.delete(name)
        put(known, name, { principal, until: at + POSITIVE_TTL_MS })
      } else {
        known.delete(name)
        put(unknown, name, at + NEGATIVE_TTL_MS)
      }
    },
    waitSeconds(token, network) {
      if (network === undefined || opened.has(token)) return 0
      return failures.waitSeconds(network, FAILURES_PER_MINUTE)
    },
    note(token, network, hasOpened) {
      if (hasOpened) put(opened, token, true)
      else {
        opened.delete(token)
        if (network !== undefined) failures.take(network, FAILURES_PER_MINUTE)
      }
    },
  }
}

function put<Value>(map: Map<string, Value>, name: string, value: Value): void {
  map.delete(name)
  const oldest = map.keys().next()
  if (map.size >= MAX_REMEMBERED && !oldest.done) map.delete(oldest.value)
  map.set(name, value)
}
