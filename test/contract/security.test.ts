import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createId } from '../../db/ids.ts'
import { createApiKey } from '../../edge/api-key.ts'
import { listRoutes } from '../support/contract-check.ts'
import { startTestGateway } from '../support/gateway.ts'
import type { Runtime, TestGateway } from '../support/gateway.ts'
import { TEST_PEPPER } from '../support/pepper.ts'
import { createTenant } from '../support/tenant.ts'
import type { Tenant } from '../support/tenant.ts'

const RUNTIMES: Runtime[] = ['node', 'workerd']

const routes = listRoutes().map((route) => ({
  method: route.method.toUpperCase(),
  template: route.path,
  route,
  name: `${route.method.toUpperCase()} ${route.path}`,
}))
const guarded = routes.filter(({ route, template }) => {
  return route.security?.length !== 0 && !template.startsWith('/internal/')
})
const withBody = guarded.filter(({ route }) => route.request?.body?.content['application/json'])
/** What they do with a body of their own kind is tried in edit-limits.test.ts. */
const withForm = guarded.filter(({ route }) => route.request?.body?.content['multipart/form-data'])
const withId = guarded.filter(({ template }) => template.includes('{'))

/** A body that the schema takes, where a test needs to get past it. */
const BODIES: Record<string, unknown> = {
  '/v1/jobs': { prompt: 'A sign' },
  '/v1/jobs/{job_id}/sign': { expires_in_seconds: 60 },
  '/v1/images/generations': { prompt: 'A sign' },
  '/api/paas/v4/images/generations': { model: 'glm-image', prompt: 'A sign' },
  '/api/paas/v4/async/images/generations': { model: 'glm-image', prompt: 'A sign' },
  '/paas/v4/images/generations': { model: 'glm-image', prompt: 'A sign' },
  '/paas/v4/async/images/generations': { model: 'glm-image', prompt: 'A sign' },
  '/v1/webhook-endpoints': { url: 'https://hooks.example.com/in' },
  '/v1/webhook-endpoints/{endpoint_id}': { enabled: true },
  '/v1/webhook-endpoints/{endpoint_id}/rotate': {},
  '/v1/quote': {},
  '/v1/topups': { amount_usd: '10' },
  '/v1/auto-topup': { enabled: false },
  '/v1/billing/portal': {},
}

test('there are routes to try', () => {
  expect(guarded.length).toBeGreaterThan(15)
  expect(withId.length).toBeGreaterThan(5)
  expect(withForm.map(({ template }) => template)).toEqual(['/v1/images/edits'])
  for (const { template } of withBody) expect(Object.keys(BODIES)).toContain(template)
})

describe.each(RUNTIMES)('on %s', (runtime) => {
  const isLogSeen = runtime === 'node'
  let gateway: TestGateway
  let tenant: Tenant
  let stranger: Tenant
  /** Things of `tenant` that a stranger may try. */
  const owned: Record<string, string> = {}

  beforeAll(async () => {
    gateway = await startTestGateway({ runtime })
    const scopes = ['generate', 'read', 'webhooks', 'billing']
    tenant = await createTenant(gateway.database.db, { scopes })
    stranger = await createTenant(gateway.database.db)
    gateway.finisher.mode = 'hold'
    const created = await gateway.call('POST', '/v1/jobs', {
      key: tenant.apiKey,
      body: { prompt: 'A sign', metadata: { note: 'private' } },
    })
    owned.job_id = created.body.id
    owned.id = created.body.id
    const endpoint = await gateway.call('POST', '/v1/webhook-endpoints', {
      key: tenant.apiKey,
      body: { url: 'https://hooks.example.com/in' },
    })
    owned.endpoint_id = endpoint.body.id
    owned.delivery_id = createId('delivery')
  })
  afterAll(() => gateway.close())

  function pathOf(template: string): string {
    return template.replaceAll(/\{(\w+)\}/g, (_, name: string) => owned[name] ?? 'x')
  }

  describe.each(guarded)('$name', ({ method, template, route }) => {
    const body = route.request?.body ? BODIES[template] : undefined

    test('without a key answers 401 key_missing', async () => {
      const answer = await gateway.call(method, pathOf(template), { body })
      expect([answer.status, answer.body.error]).toMatchObject([
        401,
        { type: 'key_missing', code: '1001' },
      ])
      expect(answer.headers.get('x-should-retry')).toBe('false')
    })

    test('with a key of no known form, of a wrong checksum or unknown answers 401 key_invalid', async () => {
      const unknown = await createApiKey(TEST_PEPPER, 'live')
      const wrong = `${tenant.apiKey.slice(0, -1)}${tenant.apiKey.endsWith('a') ? 'b' : 'a'}`
      for (const key of ['nonsense', wrong, unknown.key, `${tenant.keyId}.${'0'.repeat(64)}`]) {
        const answer = await gateway.call(method, pathOf(template), { key, body })
        expect([answer.status, answer.body.error.type]).toEqual([401, 'key_invalid'])
      }
    })

    test('with a key that lacks the scope answers 403 forbidden', async () => {
      const bare = await createTenant(gateway.database.db, { scopes: ['nothing'] })
      const answer = await gateway.call(method, pathOf(template), { key: bare.apiKey, body })
      expect([answer.status, answer.body.error.type]).toEqual([403, 'forbidden'])
    })
  })

  describe.each(withId)('$name', ({ method, template, route }) => {
    test("does not know another tenant's id", async () => {
      const body = route.request?.body ? BODIES[template] : undefined
      const answer = await gateway.call(method, pathOf(template), { key: stranger.apiKey, body })
      expect(answer.status).toBe(404)
      expect(JSON.stringify(answer.body)).not.toContain('private')
    })

    test.each(['x', '%00', '..%2f..', "job_'; drop table job", 'a'.repeat(3000)])(
      'does not know the id %s',
      async (id) => {
        const path = template.replaceAll(/\{\w+\}/g, encodeURI(id).replace('%2500', '%00'))
        const body = route.request?.body ? BODIES[template] : undefined
        const answer = await gateway.call(method, path, { key: tenant.apiKey, body })
        expect(answer.status).toBe(404)
      },
    )
  })

  describe.each(withBody)('$name', ({ method, template }) => {
    const send = (options: object) => gateway.call(method, pathOf(template), options)

    test('an empty body is refused', async () => {
      const answer = await send({
        key: tenant.apiKey,
        body: '',
        headers: { 'content-type': 'application/json' },
      })
      expect([answer.status, answer.body.error.type]).toEqual([400, 'invalid_json'])
    })

    test('broken JSON and JSON that is no object are refused', async () => {
      const broken = await send({ key: tenant.apiKey, body: '{"prompt":' })
      expect([broken.status, broken.body.error.type]).toEqual([400, 'invalid_json'])
      for (const body of ['null', '[]', '"text"', '7']) {
        const answer = await send({ key: tenant.apiKey, body })
        expect(answer.status).toBe(400)
        expect(answer.body.error).toMatchObject({
          type: 'invalid_request',
          param: null,
          message: expect.stringMatching(/^The body is not valid: expected object, received /),
        })
      }
    })

    test('no body and no content type: the body is missing', async () => {
      const answer = await send({ key: tenant.apiKey })
      // Of these every field is optional, so they may go without.
      const isOptional = ['/v1/quote', '/v1/billing/portal'].includes(template)
      if (isOptional || template.startsWith('/v1/webhook-endpoints/{')) return
      expect([answer.status, answer.body.error]).toMatchObject([
        400,
        { type: 'missing_field', param: null, message: 'The body is missing.' },
      ])
    })

    test('a content type is told by its letters, whatever their case', async () => {
      const headers = { 'content-type': 'Application/JSON; Charset=UTF-8' }
      const answer = await send({
        key: stranger.apiKey,
        body: JSON.stringify({ prompt: 7 }),
        headers,
      })
      expect(answer.status).not.toBe(415)
    })

    test('no answer grows with what was sent', async () => {
      const long = 'x'.repeat(100_000)
      const fields = BODIES[template] as object
      gateway.finisher.mode = 'draw'
      for (const body of [{ ...fields, [long]: 1 }, { ...fields, model: long }, { [long]: long }]) {
        const answer = await send({ key: tenant.apiKey, body })
        expect(JSON.stringify(answer.body).length).toBeLessThan(10_000)
      }
      gateway.finisher.mode = 'hold'
    })

    test('another content type is refused with our error body', async () => {
      for (const type of ['text/plain', 'application/x-www-form-urlencoded', 'application/jsonp']) {
        const answer = await send({
          key: tenant.apiKey,
          body: JSON.stringify(BODIES[template]),
          headers: { 'content-type': type },
        })
        expect([answer.status, answer.body.error.type]).toEqual([415, 'unsupported_media_type'])
      }
    })

    test('a body above its limit is refused before it is read as JSON', async () => {
      // Pictures may stand in it.
      const limit = template === '/v1/jobs' ? 16_777_216 : 1_048_576
      const answer = await send({ key: tenant.apiKey, body: `"${'x'.repeat(limit + 1)}"` })
      expect([answer.status, answer.body.error.type]).toEqual([413, 'payload_too_large'])
    })

    test('an unknown field is refused by name, or named as ignored in a foreign dialect', async () => {
      const isDialect = template.includes('images')
      const body = { ...(BODIES[template] as object), negative_prompt: 'blurry' }
      if (isDialect) {
        gateway.finisher.mode = 'draw'
        const answer = await send({ key: tenant.apiKey, body })
        gateway.finisher.mode = 'hold'
        expect([answer.status, answer.body.ignored_fields]).toEqual([200, ['negative_prompt']])
        return
      }
      const answer = await send({ key: tenant.apiKey, body })
      expect([answer.status, answer.body.error.param]).toEqual([400, 'negative_prompt'])
    })
  })

  test.each(withForm)('$name takes a form and nothing else', async ({ method, template }) => {
    const call = { key: tenant.apiKey, body: JSON.stringify({ prompt: 'A sign' }) }
    for (const type of ['application/json', 'text/plain', 'multipart/mixed; boundary=a']) {
      const answer = await gateway.call(method, template, {
        ...call,
        headers: { 'content-type': type },
      })
      expect([answer.status, answer.body.error.type]).toEqual([415, 'unsupported_media_type'])
    }
    const bare = await gateway.call(method, template, { key: tenant.apiKey })
    expect([bare.status, bare.body.error.message]).toEqual([400, 'The body is missing.'])
  })

  describe('every answer', () => {
    test('of an unknown address is our error body', async () => {
      for (const path of ['/', '/v2/jobs', '/v1/job', '/api/paas/v4/chat/completions']) {
        const answer = await gateway.call('GET', path)
        expect([answer.status, answer.body.error.type]).toEqual([404, 'not_found'])
      }
    })

    test('says nothing of the inside when something breaks, and the log has it under the request id', async () => {
      const { db } = gateway.database
      await db.sql`alter table model rename to model_away`
      const answer = await gateway.call('GET', '/v1/models', { key: tenant.apiKey })
      await db.sql`alter table model_away rename to model`
      expect([answer.status, answer.body.error.message]).toEqual([
        500,
        'Something went wrong on our side.',
      ])
      expect(answer.headers.get('x-request-id')).toBe(answer.body.request_id)
      if (!isLogSeen) return
      const entry = gateway.logged.find(({ request_id: id }) => id === answer.body.request_id)
      expect(String(entry?.error)).toContain('model')
    })

    test.runIf(isLogSeen)('never logs a key', async () => {
      await gateway.call('GET', '/v1/jobs', { key: tenant.apiKey })
      const text = JSON.stringify(gateway.logged)
      expect(text).not.toContain(tenant.apiKey)
      expect(text).not.toContain(tenant.zaiKey)
    })
  })
})
