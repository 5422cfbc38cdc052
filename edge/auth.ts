import { createMiddleware } from 'hono/factory'
import { compactVerify, decodeProtectedHeader, errors as joseErrors } from 'jose'
import { isId } from '../db/ids.ts'
import { findKeyByHash, findKeyById } from '../db/keys.ts'
import type { KeyPrincipal } from '../db/keys.ts'
import { hashApiKey, isWellFormedKey, zaiSecretOf } from './api-key.ts'
import type { Deps, RequestState } from './deps.ts'
import { ApiError } from './errors.ts'
import { isEqualConstantTime } from './signed-url.ts'

/** What a key may do. */
export type Scope = 'generate' | 'read' | 'webhooks' | 'billing'

/** Remembers for seconds who a key belongs to; money asks the database again in any case. */
export interface KeyCache {
  get(token: string): KeyPrincipal | null | undefined
  set(token: string, principal: KeyPrincipal | null): void
}

/** A revoked key may still read for this long. It starts no job: the reservation checks the key itself. */
const POSITIVE_TTL_MS = 5_000
/** Short, so that a key works at once after it was made, long enough to blunt a client that retries. */
const NEGATIVE_TTL_MS = 2_000
/** The shortest period that Cloudflare's rate limit binding has. */
const SHIELD_RETRY_SECONDS = 10
/** About 5 MB at the most. */
const MAX_CACHED_KEYS = 10_000

/** A bounded cache in memory; the oldest entry goes first. */
export function createKeyCache(now: () => Date): KeyCache {
  const entries = new Map<string, { principal: KeyPrincipal | null; until: number }>()
  return {
    get(token) {
      const entry = entries.get(token)
      if (!entry) return undefined
      if (entry.until > now().getTime()) return entry.principal
      entries.delete(token)
      return undefined
    },
    set(token, principal) {
      const oldest = entries.keys().next()
      if (entries.size >= MAX_CACHED_KEYS && !oldest.done) entries.delete(oldest.value)
      const ttlMs = principal ? POSITIVE_TTL_MS : NEGATIVE_TTL_MS
      entries.set(token, { principal, until: now().getTime() + ttlMs })
    },
  }
}

/**
 * Finds out who calls, or answers 401 or 403. Takes `gp_...` keys, Z.ai's `id.secret` and the JWTs that its
 * clients sign with that secret. A token of no known form costs no database call and no hash.
 */
export function authenticate(deps: Deps, scope: Scope) {
  return createMiddleware<RequestState>(async (c, next) => {
    if (deps.shield && !(await deps.shield(c.req.raw))) {
      throw new ApiError('rate_limited', {
        message: 'Too many requests come from this address.',
        data: { reason: 'rate' },
        headers: { 'retry-after': String(SHIELD_RETRY_SECONDS) },
      })
    }
    const header = c.req.header('authorization')
    if (!header) throw new ApiError('key_missing')
    const token = header.replace(/^Bearer +/i, '')
    const principal = await identify(deps, token)
    if (principal.expiresAt && principal.expiresAt <= deps.now())
      throw new ApiError('token_expired')
    if (!principal.scopes.includes(scope)) {
      throw new ApiError('forbidden', { message: `The key lacks the scope "${scope}".` })
    }
    c.set('principal', principal)
    await next()
  })
}

async function identify(deps: Deps, token: string): Promise<KeyPrincipal> {
  const parts = token.split('.')
  const [keyId = '', secret = ''] = parts
  let found: KeyPrincipal | null = null
  if (parts.length === 1 && isWellFormedKey(token)) {
    found = await remember(deps, token, async () =>
      findKeyByHash(deps.db, await hashApiKey(deps.pepper, token)),
    )
  } else if (parts.length === 2 && isId('key', keyId)) {
    found = await verifyPair(deps, keyId, secret)
  } else if (parts.length === 3 && token.length < MAX_JWT_LENGTH) {
    found = await verifyJwt(deps, token)
  }
  if (!found || found.revokedAt) throw new ApiError('key_invalid')
  return found
}

/** Looks in the cache, then asks. Under a key's id what is remembered proves nothing: the secret does. */
async function remember(
  deps: Deps,
  name: string,
  find: () => Promise<KeyPrincipal | null>,
): Promise<KeyPrincipal | null> {
  const known = deps.keys.get(name)
  if (known !== undefined) return known
  const found = await find()
  deps.keys.set(name, found)
  return found
}

function findById(deps: Deps, keyId: string): Promise<KeyPrincipal | null> {
  return remember(deps, keyId, () => findKeyById(deps.db, keyId))
}

async function verifyPair(deps: Deps, keyId: string, secret: string): Promise<KeyPrincipal | null> {
  const principal = await findById(deps, keyId)
  if (!principal) return null
  const expected = await zaiSecretOf(deps.pepper, principal.hash)
  return isEqualConstantTime(expected, secret) ? principal : null
}

/** Headers of the clients are under 500 characters. */
const MAX_JWT_LENGTH = 2_000
/** Clocks of clients may be ahead by this much. */
const CLOCK_SKEW_MS = 60_000

/** Z.ai's tokens carry `exp` and `timestamp` in milliseconds, so their check is our own. */
async function verifyJwt(deps: Deps, token: string): Promise<KeyPrincipal | null> {
  const claims = readClaims(token)
  if (!claims) return null
  const principal = await findById(deps, claims.keyId)
  if (!principal) return null
  const secret = await zaiSecretOf(deps.pepper, principal.hash)
  try {
    await compactVerify(token, new TextEncoder().encode(secret), { algorithms: ['HS256'] })
  } catch (error) {
    if (error instanceof joseErrors.JOSEError) return null
    throw error
  }
  const now = deps.now().getTime()
  if (claims.exp <= now) throw new ApiError('token_expired')
  if (claims.timestamp > now + CLOCK_SKEW_MS) {
    throw new ApiError('key_invalid', { message: 'The token is dated in the future.' })
  }
  return principal
}

function readClaims(token: string): { keyId: string; exp: number; timestamp: number } | null {
  try {
    const header = decodeProtectedHeader(token)
    if (header.alg !== 'HS256' || header.sign_type !== 'SIGN') return null
    const part = (token.split('.')[1] ?? '').replaceAll('-', '+').replaceAll('_', '/')
    const payload: unknown = JSON.parse(atob(part))
    if (typeof payload !== 'object' || payload === null) return null
    const { api_key: keyId, exp, timestamp } = payload as Record<string, unknown>
    if (typeof keyId !== 'string' || !isId('key', keyId)) return null
    if (typeof exp !== 'number' || typeof timestamp !== 'number') return null
    return { keyId, exp, timestamp }
  } catch {
    return null
  }
}
