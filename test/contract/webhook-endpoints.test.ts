import { Webhook } from 'standardwebhooks'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { z } from 'zod'
import { settleJob } from '../../billing/settle.ts'
import { errorBody } from '../../edge/contract.ts'
import { createNodeWebhookSender } from '../../edge/node/webhook-sender.ts'
import { startSweepLoop } from '../../edge/node/sweep-loop.ts'
import { createDeliverySlots, deliverDue } from '../../edge/sweep.ts'
import {
  deliveryPage,
  endpointDeleted,
  endpointList,
  secretAnswer,
  wireDelivery,
  wireEndpoint,
  wireEndpointWithSecret,
} from '../../edge/webhook-contract.ts'
import { createTestApp } from '../support/app.ts'
import type { TestApp } from '../support/app.ts'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { reserve } from '../support/jobs.ts'
import { TEST_PEPPER } from '../support/pepper.ts'
import { startReceiver } from '../support/receiver.ts'
import type { WebhookReceiver } from '../support/receiver.ts'
import { createTenant } from '../support/tenant.ts'
import type { Tenant } from '../support/tenant.ts'

const ENDPOINTS = '/v1/webhook-endpoints'
const noObjects = { read: async () => null, remove: async () => {} }
const sender = createNodeWebhookSender({ allowLoopback: true })
let database: TestDatabase
let tenant: Tenant
let app: TestApp
let receiver: WebhookReceiver

beforeAll(async () => {
  database = await createTestDatabase()
})
afterAll(async () => {
  await sender.close()
  await database.close()
})
beforeEach(async () => {
  tenant = await createTenant(database.db)
  receiver = await startReceiver()
  app = createTestApp(database.db, { objects: noObjects, allowLoopbackWebhooks: true })
})
afterEach(() => receiver.close())

function deps() {
  return {
    db: database.db,
    pepper: TEST_PEPPER,
    sendWebhook: sender.send,
    allowLoopbackWebhooks: true,
    // Ahead of the database's clock, so that rows it has dated are due.
    now: () => new Date(Date.now() + 1_000),
    queue: { send: async () => {} },
  }
}

async function call<Schema extends z.ZodType>(
  schema: Schema,
  status: number,
  method: string,
  path: string,
  body?: unknown,
): Promise<z.output<Schema>> {
  const response = await app.call(method, path, { apiKey: tenant.apiKey, body })
  const answer: unknown = await response.json()
  expect(response.status, JSON.stringify(answer)).toBe(status)
  return schema.parse(answer)
}

const register = (changes: Record<string, unknown> = {}) =>
  call(wireEndpointWithSecret, 201, 'POST', ENDPOINTS, { url: receiver.url, ...changes })

async function endJob(webhookUrl: string | null = null): Promise<string> {
  const reserved = await reserve(database.db, tenant, { webhookUrl })
  if (!reserved.ok) throw new Error(reserved.reason)
  await settleJob(database.db, { jobId: reserved.jobId, attempt: null, outcome: 'canceled' })
  return reserved.jobId
}

describe('endpoints', () => {
  test('are made with a secret that is shown once, listed without it, changed and removed', async () => {
    const made = await register({ description: 'orders', event_types: ['job.succeeded'] })
    expect(made.secret).toMatch(/^whsec_[A-Za-z0-9+/]{43}=$/)
    const { secret: _secret, ...shown } = made
    const list = await call(endpointList, 200, 'GET', ENDPOINTS)
    expect(list.data).toEqual([shown])
    const changed = await call(wireEndpoint, 200, 'PATCH', `${ENDPOINTS}/${made.id}`, {
      enabled: false,
      description: null,
    })
    expect(changed).toEqual({
      ...shown,
      enabled: false,
      description: null,
      disabled_reason: 'by_request',
    })
    expect(await call(wireEndpoint, 200, 'PATCH', `${ENDPOINTS}/${made.id}`, {})).toEqual(changed)
    await call(endpointDeleted, 200, 'DELETE', `${ENDPOINTS}/${made.id}`)
    await call(errorBody, 404, 'DELETE', `${ENDPOINTS}/${made.id}`)
    await call(errorBody, 404, 'PATCH', `${ENDPOINTS}/${made.id}`, { enabled: true })
    expect((await call(endpointList, 200, 'GET', ENDPOINTS)).data).toEqual([])
  })

  test('a rotation gives a new secret and signs with both for a day', async () => {
    const made = await register()
    const rotated = await call(
      wireEndpointWithSecret,
      200,
      'POST',
      `${ENDPOINTS}/${made.id}/rotate`,
    )
    expect(rotated.secret).not.toBe(made.secret)
    expect(rotated.public_key).not.toBe(made.public_key)
    const hours = (Date.parse(rotated.previous_secret_until ?? '') - Date.now()) / 3_600_000
    expect(hours).toBeGreaterThan(23.9)
    expect(hours).toBeLessThanOrEqual(24)
    await endJob()
    await deliverDue(deps(), createDeliverySlots())
    const [message] = receiver.received
    for (const secret of [made.secret, rotated.secret])
      expect(new Webhook(secret).verify(message!.body, message!.headers)).toBeTruthy()
  })

  test.each([
    ['plain http', 'http://example.com/hook'],
    ['a private address', 'https://10.0.0.1/hook'],
    ['a numeric private address', 'https://0x7f000001/'],
    ['metadata', 'https://169.254.169.254/latest/meta-data'],
    ['a local name', 'https://printer.local/'],
    ['no URL', 'hook'],
    ['a mail port', 'https://example.com:25/'],
  ])('a URL of %s is refused with the rule, on making and on changing', async (_, url) => {
    const strict = createTestApp(database.db, { objects: noObjects })
    const made = await register()
    for (const [method, path] of [
      ['POST', ENDPOINTS],
      ['PATCH', `${ENDPOINTS}/${made.id}`],
    ] as const) {
      const response = await strict.call(method, path, { apiKey: tenant.apiKey, body: { url } })
      const { error } = errorBody.parse(await response.json())
      expect([response.status, error.param]).toEqual([400, 'url'])
      expect(error.message).toMatch(/^url: (must|is) /)
    }
  })

  test('unknown fields, unknown events and an empty body are refused', async () => {
    for (const body of [
      { url: receiver.url, secret: 'mine' },
      { url: receiver.url, event_types: ['x'] },
      {},
    ])
      await call(errorBody, 400, 'POST', ENDPOINTS, body)
    const empty = await app.call('POST', ENDPOINTS, {
      apiKey: tenant.apiKey,
      headers: { 'content-type': 'application/json' },
    })
    expect(empty.status).toBe(400)
  })

  test('twenty are the most', async () => {
    for (let count = 0; count < 20; count++) await register()
    const refused = await call(errorBody, 400, 'POST', ENDPOINTS, { url: receiver.url })
    expect(refused.error.message).toContain('20')
  })

  test('another org sees and changes nothing, and a key needs the scope', async () => {
    const made = await register()
    await endJob()
    const [entry] = (await call(deliveryPage, 200, 'GET', '/v1/webhook-deliveries')).data
    const stranger = await createTenant(database.db)
    const asStranger = (method: string, path: string, body?: unknown) =>
      app.call(method, path, { apiKey: stranger.apiKey, body })
    const path = `${ENDPOINTS}/${made.id}`
    expect((await asStranger('PATCH', path, { enabled: false })).status).toBe(404)
    expect((await asStranger('DELETE', path)).status).toBe(404)
    expect((await asStranger('POST', `${path}/rotate`)).status).toBe(404)
    const replay = `/v1/webhook-deliveries/${entry!.id}/replay`
    expect((await asStranger('POST', replay)).status).toBe(404)
    const log = await asStranger('GET', '/v1/webhook-deliveries')
    expect(deliveryPage.parse(await log.json()).data).toEqual([])
    const narrow = await createTenant(database.db, { scopes: ['generate', 'read'] })
    for (const [method, url] of [
      ['GET', ENDPOINTS],
      ['POST', ENDPOINTS],
      ['DELETE', path],
      ['POST', `${path}/rotate`],
      ['GET', '/v1/webhook-deliveries'],
      ['POST', replay],
      ['GET', '/v1/webhook-secret'],
    ] as const) {
      expect((await app.call(method, url, { apiKey: narrow.apiKey })).status).toBe(403)
      expect((await app.call(method, url)).status).toBe(401)
    }
  })
})

describe('delivery log', () => {
  test('shows every attempt, by page and by filter, and replays', async () => {
    const made = await register()
    const jobs = [await endJob(), await endJob(), await endJob()]
    receiver.answer = (_request, response) => response.writeHead(500).end('inner secret')
    await deliverDue(deps(), createDeliverySlots())
    const path = '/v1/webhook-deliveries'
    const first = await call(deliveryPage, 200, 'GET', `${path}?limit=2`)
    expect(first).toMatchObject({ has_more: true, data: { length: 2 } })
    const rest = await call(deliveryPage, 200, 'GET', `${path}?limit=2&before=${first.next_before}`)
    expect(rest).toMatchObject({ has_more: false, next_before: null, data: { length: 1 } })
    const all = [...first.data, ...rest.data]
    expect(all.map((one) => one.subject_id).toSorted()).toEqual(jobs.toSorted())
    expect(all[0]).toMatchObject({
      endpoint_id: made.id,
      state: 'pending',
      event_type: 'job.canceled',
      attempts: [{ status_code: 500, error: 'http_error' }],
    })
    // What the receiver answered stays with it.
    expect(JSON.stringify(all)).not.toContain('inner secret')
    const filtered = await call(
      deliveryPage,
      200,
      'GET',
      `${path}?job_id=${jobs[1]}&state=pending&endpoint_id=${made.id}`,
    )
    expect(filtered.data.map((one) => one.subject_id)).toEqual([jobs[1]])
    expect((await call(deliveryPage, 200, 'GET', `${path}?state=delivered`)).data).toEqual([])
    const again = await call(wireDelivery, 202, 'POST', `${path}/${all[0]!.id}/replay`)
    expect(again).toMatchObject({ event_id: all[0]!.event_id, state: 'pending', attempts: [] })
    expect(app.pokes()).toBe(1)
    await call(wireEndpoint, 200, 'PATCH', `${ENDPOINTS}/${made.id}`, { enabled: false })
    const refused = await call(errorBody, 400, 'POST', `${path}/${all[0]!.id}/replay`)
    expect(refused.error.param).toBe('delivery_id')
  })

  test("the org's secret verifies what goes to the URL of a job", async () => {
    const keys = await call(secretAnswer, 200, 'GET', '/v1/webhook-secret')
    await endJob(receiver.url)
    await deliverDue(deps(), createDeliverySlots())
    const [message] = receiver.received
    expect(new Webhook(keys.secret).verify(message!.body, message!.headers)).toBeTruthy()
    expect(keys.public_key).toMatch(/^whpk_/)
  })
})

test('the loop on Node delivers soon after a poke, and stops', async () => {
  const errors: unknown[] = []
  const loop = startSweepLoop(deps(), (_, error) => errors.push(error))
  const jobId = await endJob(receiver.url)
  loop.poke()
  loop.poke()
  await receiver.waitFor(1)
  await loop.stop(sender.close)
  expect(JSON.parse(receiver.received[0]!.body)).toMatchObject({ data: { job_id: jobId } })
  expect(receiver.received).toHaveLength(1)
  expect(errors).toEqual([])
})

test('every call of this part is in the document with its own name', async () => {
  const response = await app.call('GET', '/openapi.json')
  const document = (await response.json()) as { paths: Record<string, Record<string, unknown>> }
  const calls = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.keys(methods).map((method) => `${method} ${path}`),
  )
  expect(calls).toEqual(
    expect.arrayContaining([
      'get /v1/files/{job_id}/{file}',
      'post /v1/jobs/{job_id}/sign',
      'delete /v1/jobs/{job_id}',
      'post /v1/webhook-endpoints',
      'get /v1/webhook-endpoints',
      'patch /v1/webhook-endpoints/{endpoint_id}',
      'delete /v1/webhook-endpoints/{endpoint_id}',
      'post /v1/webhook-endpoints/{endpoint_id}/rotate',
      'get /v1/webhook-deliveries',
      'post /v1/webhook-deliveries/{delivery_id}/replay',
      'get /v1/webhook-secret',
    ]),
  )
  expect(calls).not.toContain('post /internal/poke')
})
