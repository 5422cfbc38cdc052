import { createMiddleware } from 'hono/factory'
import { compactVerify, decodeProtectedHeader, errors as joseErrors } from 'jose'
import { isId } from '../db/ids.ts'
import { findKeyByHash, findKeyById } from '../db/keys.ts'
import type { KeyPrincipal } from '../db/keys.ts'
import { hashApiKey, isWellFormedKey, zaiSecretOf } from './api-key.ts'
import type { Scope } from './api-key.ts'
import type { Deps, RequestState } from './deps.ts'
import { ApiError } from './errors.ts'
import { peppersOf } from './pepper.ts'
import { isEqualConstantTime } from './signed-url.ts'

/** The shortest period that Cloudflare's rate limit binding has. */
const SHIELD_RETRY_SECONDS = 10
/**
 * Finds out who calls, or answers 401 or 403. Takes `gp_...` keys, Z.ai's `id.secret` and the JWTs that its
 * clients sign with that secret. A token of no known form costs no database call and no hash.
 */
export function authenticate(deps: Deps, scope: Scope) {
  return createMiddleware<RequestState>(async (c, next) => {
    if (deps.shield && !(await deps.shield(c.req.raw))) {
      throw tooMany('Too many requests come from this address.', SHIELD_RETRY_SECONDS)
    }
    const header = c.req.header('authorization')
    if (!header) throw new ApiError('key_missing')
    const token = header.replace(/^Bearer +/i, '')
    // Without bindings, as on Workers, there is no address, and the shield stands alone.
    const principal = await identify(deps, token, { ...c.env }.network)
    if (principal.expiresAt && principal.expiresAt <= deps.now())
      throw new ApiError('token_expired')
    if (!principal.scopes.includes(scope)) {
      throw new ApiError('forbidden', { message: `The key lacks the scope "${scope}".` })
    }
    c.set('principal', principal)
    await next()
  })
}

async function identify(
  deps: Deps,
  token: string,
  network: string | undefined,
): Promise<KeyPrincipal> {
  // A key alone proves itself; under a key's id what is remembered proves nothing: the secret does.
  const known = isWellFormedKey(token) ? deps.keys.get(token) : undefined
  const found = known === undefined ? await lookUp(deps, token, network) : known
  if (!found || found.revokedAt) throw new ApiError('key_invalid')
  return found
}

/** Verifies a token at the cost of hashes and queries, of which each network has only so many that fail. */
async function lookUp(
  deps: Deps,
  token: string,
  network: string | undefined,
): Promise<KeyPrincipal | null> {
  const verify = verifierOf(deps, token)
  if (!verify) return null
  const waitSeconds = deps.keys.waitSeconds(token, network)
  if (waitSeconds > 0) throw tooMany('Too many unknown keys come from this address.', waitSeconds)
  const found = await verify()
  deps.keys.note(token, network, found !== null)
  return found
}

/** How a token is verified; null for one of no known form, which costs nothing. */
function verifierOf(deps: Deps, token: string): (() => Promise<KeyPrincipal | null>) | null {
  if (isWellFormedKey(token)) return () => findByKey(deps, token)
  const parts = token.split('.')
  const [keyId = '', secret = ''] = parts
  if (parts.length === 2 && isId('key', keyId)) return () => verifyPair(deps, keyId, secret)
  const claims = parts.length === 3 && token.length < MAX_JWT_LENGTH ? readClaims(token) : null
  return claims ? () => verifyJwt(deps, token, claims) : null
}

async function findByKey(deps: Deps, key: string): Promise<KeyPrincipal | null> {
  const hashes = await Promise.all(peppersOf(deps).map((pepper) => hashApiKey(pepper, key)))
  const found = await findKeyByHash(deps.db, hashes)
  deps.keys.set(key, found)
  return found
}

async function findById(deps: Deps, keyId: string): Promise<KeyPrincipal | null> {
  const known = deps.keys.get(keyId)
  if (known !== undefined) return known
  const found = await findKeyById(deps.db, keyId)
  deps.keys.set(keyId, found)
  return found
}

/** The secrets of a key's Z.ai form: which pepper it was made under is not stored. */
function zaiSecretsOf(deps: Deps, { hash }: KeyPrincipal): Promise<string[]> {
  return Promise.all(peppersOf(deps).map((pepper) => zaiSecretOf(pepper, hash)))
}

async function verifyPair(deps: Deps, keyId: string, secret: string): Promise<KeyPrincipal | null> {
  const principal = await findById(deps, keyId)
  if (!principal) return null
  const secrets = await zaiSecretsOf(deps, principal)
  return secrets.some((expected) => isEqualConstantTime(expected, secret)) ? principal : null
}

/** Headers of the clients are under 500 characters. */
const MAX_JWT_LENGTH = 2_000
/** Clocks of clients may be ahead by this much. */
const CLOCK_SKEW_MS = 60_000

/** Z.ai's tokens carry `exp` and `timestamp` in milliseconds, so their check is our own. */
async function verifyJwt(deps: Deps, token: string, claims: Claims): Promise<KeyPrincipal | null> {
  const principal = await findById(deps, claims.keyId)
  if (!principal) return null
  const secrets = await zaiSecretsOf(deps, principal)
  const checks = await Promise.all(secrets.map((secret) => isSignedWith(token, secret)))
  if (!checks.includes(true)) return null
  const now = deps.now().getTime()
  if (claims.exp <= now) throw new ApiError('token_expired')
  if (claims.timestamp > now + CLOCK_SKEW_MS) {
    throw new ApiError('key_invalid', { message: 'The token is dated in the future.' })
  }
  return principal
}

async function isSignedWith(token: string, secret: string): Promise<boolean> {
  try {
    await compactVerify(token, new TextEncoder().encode(secret), { algorithms: ['HS256'] })
    return true
  } catch (error) {
    if (error instanceof joseErrors.JOSEError) return false
    throw error
  }
}

interface Claims {
  keyId: string
  exp: number
  timestamp: number
}

function readClaims(token: string): Claims | null {
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

function tooMany(message: string, waitSeconds: number): ApiError {
  return new ApiError('rate_limited', {
    message,
    data: { reason: 'rate' },
    headers: { 'retry-after': String(waitSeconds) },
  })
}
