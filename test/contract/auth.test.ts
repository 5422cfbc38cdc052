import { CompactSign } from 'jose'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { Db } from '../../db/client.ts'
import { createId } from '../../db/ids.ts'
import { revokeKey } from '../../db/keys.ts'
import { deriveSecret } from '../../db/derive.ts'
import { createApiKey, zaiSecretOf } from '../../edge/api-key.ts'
import { createKeyCache } from '../../edge/key-cache.ts'
import { NO_OBJECTS, createTestApp } from '../support/app.ts'
import type { TestApp } from '../support/app.ts'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { TEST_PEPPER } from '../support/pepper.ts'
import { createTenant } from '../support/tenant.ts'
import type { Tenant } from '../support/tenant.ts'

let database: TestDatabase
let tenant: Tenant
let at: number
let app: TestApp
let queries: number

beforeAll(async () => {
  database = await createTestDatabase()
})
afterAll(() => database.close())
beforeEach(async () => {
  tenant = await createTenant(database.db)
  at = Date.now()
  queries = 0
  app = createTestApp(countUses(database.db), { objects: NO_OBJECTS, now: () => new Date(at) })
})

/** The same database, counting how often it is reached for. */
function countUses(db: Db): Db {
  return new Proxy(db, {
    get(target, name, receiver) {
      queries += 1
      return Reflect.get(target, name, receiver)
    },
  })
}

/** The status and error type of a read with this token; a good one reads the balance. */
async function tryToken(token: string, headers: Record<string, string> = {}, network?: string) {
  const response = await app.call('GET', '/v1/balance', {
    headers: { authorization: `Bearer ${token}`, ...headers },
    ...(network === undefined ? {} : { network }),
  })
  const body = (await response.json()) as { error?: { type: string; code: string } }
  return response.status === 200 ? 'ok' : `${response.status} ${body.error?.type}`
}

interface TokenParts {
  header?: Record<string, unknown>
  claims?: Record<string, unknown>
  secret?: string
}

/** A token as Z.ai's clients sign it, with parts that a test changes. */
function signToken(parts: TokenParts = {}): Promise<string> {
  const [keyId, ownSecret = ''] = tenant.zaiKey.split('.')
  const claims = { api_key: keyId, exp: at + 210_000, timestamp: at, ...parts.claims }
  return new CompactSign(new TextEncoder().encode(JSON.stringify(claims)))
    .setProtectedHeader({ alg: 'HS256', sign_type: 'SIGN', ...parts.header })
    .sign(new TextEncoder().encode(parts.secret ?? ownSecret))
}

describe('a key', () => {
  test('opens the API as Bearer token, however the word is written', async () => {
    expect(await tryToken(tenant.apiKey)).toBe('ok')
    const headers = { authorization: `bearer ${tenant.apiKey}` }
    expect(await tryToken(tenant.apiKey, headers)).toBe('ok')
  })

  test('of no known form costs no query', async () => {
    const wrong = tenant.apiKey.slice(0, -1) + (tenant.apiKey.endsWith('0') ? '1' : '0')
    const pair = `${tenant.keyId.slice(0, -1)}.${'0'.repeat(64)}`
    const texts = ['', 'x', wrong, pair, 'a.b', 'a.b.c', 'a.b.c.d', 'é'.repeat(50), 'gp_live_']
    for (const text of texts) expect(await tryToken(encodeURI(text))).toBe('401 key_invalid')
    expect(queries).toBe(0)
  })

  test('is asked for once and then known for five seconds', async () => {
    await tryToken(tenant.apiKey)
    const first = queries
    queries = 0
    await tryToken(tenant.apiKey)
    expect(queries).toBeLessThan(first)
    at += 5_001
    queries = 0
    await tryToken(tenant.apiKey)
    expect(queries).toBe(first)
  })

  test('that is unknown is not asked for again within two seconds, and works soon after it is made', async () => {
    const { key, hash } = await createApiKey(TEST_PEPPER, 'live')
    expect(await tryToken(key)).toBe('401 key_invalid')
    const first = queries
    for (let call = 0; call < 5; call++) expect(await tryToken(key)).toBe('401 key_invalid')
    expect(queries).toBe(first)
    await database.db.sql`update api_key set hash = ${hash} where id = ${tenant.keyId}`
    at += 2_001
    expect(await tryToken(key)).toBe('ok')
  })

  test('that is revoked reads for five seconds at the most', async () => {
    expect(await tryToken(tenant.apiKey)).toBe('ok')
    await revokeKey(database.db, tenant)
    at += 5_001
    expect(await tryToken(tenant.apiKey)).toBe('401 key_invalid')
  })

  test('that is revoked starts no job, not even while it is remembered', async () => {
    expect(await tryToken(tenant.apiKey)).toBe('ok')
    await revokeKey(database.db, tenant)
    const response = await app.call('POST', '/v1/jobs', {
      apiKey: tenant.apiKey,
      body: { prompt: 'A sign' },
    })
    expect(response.status).toBe(401)
    const jobs = await database.db.sql`select id from job where key_id = ${tenant.keyId}`
    expect(jobs).toHaveLength(0)
  })

  test('ends at its expiry to the millisecond, also while it is remembered', async () => {
    const expiresAt = new Date(at + 1_000)
    await database.db.sql`update api_key set expires_at = ${expiresAt} where id = ${tenant.keyId}`
    expect(await tryToken(tenant.apiKey)).toBe('ok')
    at += 999
    expect(await tryToken(tenant.apiKey)).toBe('ok')
    at += 1
    expect(await tryToken(tenant.apiKey)).toBe('401 token_expired')
  })

  test.each([
    ['read', 'GET', '/v1/jobs', 200],
    ['read', 'POST', '/v1/jobs', 403],
    ['read', 'GET', '/v1/webhook-endpoints', 403],
    ['read', 'POST', '/v1/jobs/x/sign', 404],
    ['generate', 'POST', '/v1/jobs/x/sign', 403],
    ['generate', 'POST', '/v1/jobs', 201],
    ['generate', 'GET', '/v1/jobs', 403],
    ['webhooks', 'GET', '/v1/webhook-endpoints', 200],
    ['webhooks', 'POST', '/v1/jobs', 403],
  ])('with the scope %s: %s %s answers %i', async (scope, method, path, status) => {
    const { apiKey } = await createTenant(database.db, { scopes: [scope] })
    const sent = path.endsWith('/sign') ? { expires_in_seconds: 60 } : { prompt: 'A sign' }
    const body = method === 'POST' ? { body: sent } : {}
    expect((await app.call(method, path, { apiKey, ...body })).status).toBe(status)
  })
})

describe("Z.ai's key", () => {
  test('works as the plain pair', async () => {
    expect(await tryToken(tenant.zaiKey)).toBe('ok')
  })

  test('does not open with another key`s secret, an empty one, or the stored hash', async () => {
    const other = await createTenant(database.db)
    const [row] = await database.db.sql<{ hash: string }[]>`
      select hash from api_key where id = ${tenant.keyId}`
    const secrets = [other.zaiKey.split('.')[1], '', row?.hash, '0'.repeat(64)]
    // The right one first, so that the key is remembered: what is remembered must not open.
    expect(await tryToken(tenant.zaiKey)).toBe('ok')
    for (const secret of secrets) {
      expect(await tryToken(`${tenant.keyId}.${secret}`)).toBe('401 key_invalid')
    }
    expect(await tryToken(`${createId('key')}.${'0'.repeat(64)}`)).toBe('401 key_invalid')
  })

  test('works as a token that its clients sign, with times in milliseconds', async () => {
    expect(await tryToken(await signToken())).toBe('ok')
  })

  test.each<[string, TokenParts, string]>([
    ['has expired', { claims: { exp: 1_000 } }, '401 token_expired'],
    [
      'counts in seconds',
      { claims: { exp: Math.floor(Date.now() / 1000) + 600 } },
      '401 token_expired',
    ],
    ['is signed with another secret', { secret: 'f'.repeat(64) }, '401 key_invalid'],
    ['lacks the sign type', { header: { sign_type: 'OTHER' } }, '401 key_invalid'],
    ['has another algorithm', { header: { alg: 'HS512' } }, '401 key_invalid'],
    ['has no expiry', { claims: { exp: undefined } }, '401 key_invalid'],
    ['has an expiry in words', { claims: { exp: 'tomorrow' } }, '401 key_invalid'],
    ['comes from the future', { claims: { timestamp: 9e15 } }, '401 key_invalid'],
    ['names no key', { claims: { api_key: undefined } }, '401 key_invalid'],
    ['names a key that is not there', { claims: { api_key: createId('key') } }, '401 key_invalid'],
  ])('a token that %s is refused', async (_, parts, answer) => {
    expect(await tryToken(await signToken(parts))).toBe(answer)
  })

  test('a token without a signature is refused, whatever it claims', async () => {
    const [, claims = ''] = (await signToken()).split('.')
    const header = (text: object) => Buffer.from(JSON.stringify(text)).toString('base64url')
    for (const alg of ['none', 'HS256']) {
      const token = `${header({ alg, sign_type: 'SIGN' })}.${claims}.`
      expect(await tryToken(token)).toBe('401 key_invalid')
    }
  })

  test('a token with changed claims is refused', async () => {
    const other = await createTenant(database.db)
    const [header, , signature] = (await signToken()).split('.')
    const [, foreign] = (await signToken({ claims: { api_key: other.keyId } })).split('.')
    expect(await tryToken(`${header}.${foreign}.${signature}`)).toBe('401 key_invalid')
  })
})

describe('a flood of well-formed keys that nobody has', () => {
  const NETWORK = '192.0.2.1'
  const from = (token: string, network = NETWORK) => tryToken(token, {}, network)

  /** Tries new keys until one is refused unseen. @returns how many were looked up */
  async function flood(makeToken: () => Promise<string>): Promise<number> {
    for (let count = 0; count < 500; count++) {
      const answer = await from(await makeToken())
      if (answer === '429 rate_limited') return count
      expect(answer).toBe('401 key_invalid')
    }
    throw new Error('the flood met no bound')
  }
  const unknownKey = async () => (await createApiKey(TEST_PEPPER, 'live')).key

  test.each<[string, () => Promise<string>]>([
    ['keys', unknownKey],
    ['pairs', async () => `${createId('key')}.${'0'.repeat(64)}`],
    ['secrets of one key', async () => `${tenant.keyId}.${crypto.randomUUID()}`],
    ['tokens', () => signToken({ secret: crypto.randomUUID() })],
  ])('(%s) is refused before a hash or a query, and told when to come back', async (_, make) => {
    expect(await flood(make)).toBe(120)
    queries = 0
    for (let count = 0; count < 50; count++) expect(await from(await make())).toContain('429')
    expect(queries).toBe(0)
    const token = await make()
    const response = await app.call('GET', '/v1/balance', { apiKey: token, network: NETWORK })
    const waitSeconds = Number(response.headers.get('retry-after'))
    expect(waitSeconds).toBeGreaterThan(0)
    at += waitSeconds * 1000
    expect(await from(await make())).toBe('401 key_invalid')
  })

  test('shuts out no key that has opened before, in either form, nor a caller from elsewhere', async () => {
    const other = await createTenant(database.db)
    for (const key of [tenant.apiKey, tenant.zaiKey]) expect(await from(key)).toBe('ok')
    await flood(unknownKey)
    // No longer remembered, so that it has to be looked up again.
    at += 5_001
    await flood(unknownKey)
    for (const key of [tenant.apiKey, tenant.zaiKey]) expect(await from(key)).toBe('ok')
    expect(await from(other.apiKey)).toBe('429 rate_limited')
    expect(await from(other.apiKey, '192.0.2.2')).toBe('ok')
  })

  test('drives no good key out of memory', () => {
    const unknown = createKeyCache(() => new Date(at))
    unknown.set('good', {
      keyId: 'key_1',
      orgId: 'org_1',
      teamId: 'team_1',
      scopes: [],
      hash: '',
      requestsPerMinute: null,
      expiresAt: null,
      revokedAt: null,
    })
    for (let count = 0; count < 20_000; count++) unknown.set(`bad ${count}`, null)
    expect(unknown.get('good')).toMatchObject({ keyId: 'key_1' })
    expect([unknown.get('bad 0'), unknown.get('bad 19999')]).toEqual([undefined, null])
  })
})

describe('while the pepper is rotated', () => {
  const NEXT = 'next-pepper-next-pepper-next-pepper-0000'
  const rotate = (previousPepper?: string) => {
    app = createTestApp(database.db, {
      objects: NO_OBJECTS,
      now: () => new Date(at),
      pepper: NEXT,
      previousPepper,
    })
  }

  test('keys of the old one open in every form, for as long as it is given', async () => {
    const jwt = await signToken()
    const tokens = [tenant.apiKey, tenant.zaiKey, jwt]
    rotate(TEST_PEPPER)
    for (const token of tokens) expect(await tryToken(token)).toBe('ok')
    rotate()
    for (const token of tokens) expect(await tryToken(token)).toBe('401 key_invalid')
  })

  test('keys of the new one open too, and the worker`s poke is taken under both', async () => {
    rotate(TEST_PEPPER)
    const { key, hash } = await createApiKey(NEXT, 'live')
    await database.db.sql`update api_key set hash = ${hash} where id = ${tenant.keyId}`
    expect(await tryToken(key)).toBe('ok')
    expect(await tryToken(`${tenant.keyId}.${await zaiSecretOf(NEXT, hash)}`)).toBe('ok')
    for (const pepper of [NEXT, TEST_PEPPER]) {
      const apiKey = await deriveSecret(pepper, 'internal')
      expect((await app.call('POST', '/internal/poke', { apiKey })).status).toBe(202)
    }
  })
})
