import { Webhook } from 'standardwebhooks'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { z } from 'zod'
import { settleJob } from '../../billing/settle.ts'
import { createId } from '../../db/ids.ts'
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
import { NO_OBJECTS, createTestApp } from '../support/app.ts'
import { createContractCheck, listRoutes } from '../support/contract-check.ts'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { startTestGateway } from '../support/gateway.ts'
import type { Runtime } from '../support/gateway.ts'
import { reserve } from '../support/jobs.ts'
import { TEST_PEPPER } from '../support/pepper.ts'
import { startReceiver } from '../support/receiver.ts'
import type { WebhookReceiver } from '../support/receiver.ts'
import { createTenant } from '../support/tenant.ts'
import type { Tenant } from '../support/tenant.ts'

const ENDPOINTS = '/v1/webhook-endpoints'
const DELIVERIES = '/v1/webhook-deliveries'
const PUBLIC_URL = 'https://hooks.example/in'
const sender = createNodeWebhookSender({ allowLoopback: true })
afterAll(() => sender.close())

/** The gateway under test: what it answers has been checked against its own document. */
interface Subject {
  database: TestDatabase
  url: string | null
  call(
    method: string,
    path: string,
    options?: { key?: string; body?: unknown; headers?: Record<string, string> },
  ): Promise<{ status: number; body: unknown }>
  /** How often the sweep was asked to run now; null where nobody counts. */
  pokes: () => number | null
  close(): Promise<void>
}

/** The app in this process, whose sweep does not run by itself. */
async function startOnNode(): Promise<Subject> {
  const database = await createTestDatabase()
  const app = createTestApp(database.db, {
    objects: NO_OBJECTS,
  })
  const check = createContractCheck()
  return {
    database,
    url: null,
    pokes: app.pokes,
    close: () => database.close(),
    async call(method, path, { key, body, headers } = {}) {
      const response = await app.call(method, path, {
        body,
        ...(key === undefined ? {} : { apiKey: key }),
        ...(headers === undefined ? {} : { headers }),
      })
      return { status: response.status, body: await check(method, path, response) }
    },
  }
}

const START: Record<Runtime, () => Promise<Subject>> = {
  node: startOnNode,
  workerd: async () => ({ ...(await startTestGateway({ runtime: 'workerd' })), pokes: () => null }),
}

describe.each(['node', 'workerd'] as const)('webhooks on %s', (runtime) => {
  let subject: Subject
  let database: TestDatabase
  let tenant: Tenant
  let receiver: WebhookReceiver

  beforeAll(async () => {
    subject = await START[runtime]()
    database = subject.database
  })
  afterAll(() => subject.close())
  beforeEach(async () => {
    tenant = await createTenant(database.db)
    receiver = await startReceiver()
    await database.db.sql`update webhook_delivery set state = 'canceled' where state = 'pending'`
  })
  afterEach(() => receiver.close())

  /** Attempts are made from this process: the sender on Workers cannot be allowed to reach loopback. */
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
    const answer = await subject.call(method, path, { key: tenant.apiKey, body })
    expect(answer.status, JSON.stringify(answer.body)).toBe(status)
    return schema.parse(answer.body)
  }

  const register = (changes: Record<string, unknown> = {}) =>
    call(wireEndpointWithSecret, 201, 'POST', ENDPOINTS, { url: PUBLIC_URL, ...changes })

  /** An endpoint whose events come here, which no caller could register. */
  async function registerReceiver() {
    const made = await register()
    await database.db.sql`update webhook_endpoint set url = ${receiver.url} where id = ${made.id}`
    return made
  }

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
      expect(await call(wireEndpoint, 200, 'GET', `${ENDPOINTS}/${made.id}`)).toEqual(shown)
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
      await call(errorBody, 404, 'GET', `${ENDPOINTS}/${made.id}`)
      await call(errorBody, 404, 'PATCH', `${ENDPOINTS}/${made.id}`, { enabled: true })
      expect((await call(endpointList, 200, 'GET', ENDPOINTS)).data).toEqual([])
    })

    test('a rotation gives a new secret and signs with both for a day', async () => {
      const made = await registerReceiver()
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
      const made = await register()
      for (const [method, path] of [
        ['POST', ENDPOINTS],
        ['PATCH', `${ENDPOINTS}/${made.id}`],
      ] as const) {
        const { error } = await call(errorBody, 400, method, path, { url })
        expect(error.param).toBe('url')
        expect(error.message).toMatch(/^url: (must|is) /)
      }
    })

    test('unknown fields, unknown events and an empty body are refused', async () => {
      for (const body of [
        { url: PUBLIC_URL, secret: 'mine' },
        { url: PUBLIC_URL, event_types: ['x'] },
        {},
      ])
        await call(errorBody, 400, 'POST', ENDPOINTS, body)
      const empty = await subject.call('POST', ENDPOINTS, {
        key: tenant.apiKey,
        headers: { 'content-type': 'application/json' },
      })
      expect(empty.status).toBe(400)
    })

    test.each([
      ['U+0000', 'a\0b'],
      ['half of a pair', '\ud800'],
      ['257 characters', 'x'.repeat(257)],
    ])(
      'a description with %s is refused by its name, on making and on changing',
      async (_, description) => {
        const made = await register()
        for (const [method, path] of [
          ['POST', ENDPOINTS],
          ['PATCH', `${ENDPOINTS}/${made.id}`],
        ] as const) {
          const body = { url: PUBLIC_URL, description }
          const { error } = await call(errorBody, 400, method, path, body)
          expect(error.param).toBe('description')
          expect(error.message).toMatch(/^description: /)
        }
      },
    )

    test('twenty are the most', async () => {
      for (let count = 0; count < 20; count++) await register()
      const refused = await call(errorBody, 400, 'POST', ENDPOINTS, { url: PUBLIC_URL })
      expect(refused.error.message).toContain('20')
    })

    test('another org sees and changes nothing, and a key needs the scope', async () => {
      const made = await register()
      await endJob()
      const [entry] = (await call(deliveryPage, 200, 'GET', DELIVERIES)).data
      const stranger = await createTenant(database.db)
      const narrow = await createTenant(database.db, { scopes: ['generate', 'read'] })
      const path = `${ENDPOINTS}/${made.id}`
      const delivery = `${DELIVERIES}/${entry!.id}`
      for (const [method, url, strangerSees] of [
        ['GET', ENDPOINTS, 200],
        ['POST', ENDPOINTS, 400],
        ['GET', path, 404],
        ['PATCH', path, 404],
        ['DELETE', path, 404],
        ['POST', `${path}/rotate`, 404],
        ['GET', DELIVERIES, 200],
        ['GET', delivery, 404],
        ['POST', `${delivery}/replay`, 404],
        ['GET', '/v1/webhook-secret', 200],
      ] as const) {
        const body = method === 'PATCH' ? { enabled: false } : undefined
        const seen = await subject.call(method, url, { key: stranger.apiKey, body })
        expect([method, url, seen.status]).toEqual([method, url, strangerSees])
        expect(JSON.stringify(seen.body)).not.toContain(PUBLIC_URL)
        expect((await subject.call(method, url, { key: narrow.apiKey, body })).status).toBe(403)
        expect((await subject.call(method, url, { body })).status).toBe(401)
      }
      expect(await call(wireEndpoint, 200, 'GET', path)).toMatchObject({ enabled: true })
    })
  })

  describe('delivery log', () => {
    test('shows every attempt, by page and by filter, and replays', async () => {
      const made = await registerReceiver()
      const jobs = [await endJob(), await endJob(), await endJob()]
      receiver.answer = (_request, response) => response.writeHead(500).end('inner secret')
      await deliverDue(deps(), createDeliverySlots())
      const path = DELIVERIES
      const first = await call(deliveryPage, 200, 'GET', `${path}?limit=2`)
      expect(first).toMatchObject({ has_more: true, data: { length: 2 } })
      const rest = await call(
        deliveryPage,
        200,
        'GET',
        `${path}?limit=2&before=${first.next_before}`,
      )
      expect(rest).toMatchObject({ has_more: false, next_before: null, data: { length: 1 } })
      const all = [...first.data, ...rest.data]
      expect(all.map((one) => one.subject_id).toSorted()).toEqual(jobs.toSorted())
      expect(all[0]).toMatchObject({
        endpoint_id: made.id,
        state: 'pending',
        event_type: 'job.canceled',
        attempts: [{ status_code: 500, error: 'http_error' }],
      })
      expect(await call(wireDelivery, 200, 'GET', `${path}/${all[0]!.id}`)).toEqual(all[0])
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
      expect(subject.pokes()).toBe(runtime === 'node' ? 1 : null)
      await call(wireEndpoint, 200, 'PATCH', `${ENDPOINTS}/${made.id}`, { enabled: false })
      const refused = await call(errorBody, 400, 'POST', `${path}/${all[0]!.id}/replay`)
      expect(refused.error.param).toBe('delivery_id')
    })

    test.each([
      ['endpoint_id', '%00'],
      ['endpoint_id', 'whd_01'],
      ['job_id', 'job_%00'],
      ['job_id', `job_${'x'.repeat(61)}`],
      ['before', 'whd_%ED%A0%80'],
      ['before', 'latest'],
      ['state', 'lost'],
      ['limit', '0'],
    ])('a filter %s=%s is refused by its name', async (name, value) => {
      const { error } = await call(errorBody, 400, 'GET', `${DELIVERIES}?${name}=${value}`)
      expect(error.param).toBe(name)
      expect(error.message).toMatch(new RegExp(`^${name}: `))
    })

    test('a delivery that is not there is not found', async () => {
      for (const id of [createId('delivery'), createId('endpoint'), 'x'])
        await call(errorBody, 404, 'GET', `${DELIVERIES}/${id}`)
    })

    test('an endpoint whose receiver is overloaded says until when nothing is sent', async () => {
      const made = await registerReceiver()
      await endJob()
      receiver.answer = (_request, response) =>
        response.writeHead(429, { 'retry-after': '600' }).end()
      await deliverDue(deps(), createDeliverySlots())
      const { deferred_until: until } = await call(
        wireEndpoint,
        200,
        'GET',
        `${ENDPOINTS}/${made.id}`,
      )
      const seconds = (Date.parse(until ?? '') - Date.now()) / 1000
      expect(seconds).toBeGreaterThan(500)
      expect(seconds).toBeLessThan(602)
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

  test.runIf(runtime === 'node')('the loop delivers soon after a poke, and stops', async () => {
    const errors: unknown[] = []
    const loop = startSweepLoop({ ...deps(), objects: NO_OBJECTS }, (_, error) =>
      errors.push(error),
    )
    const jobId = await endJob(receiver.url)
    loop.poke()
    loop.poke()
    await receiver.waitFor(1)
    await loop.stop(sender.close)
    expect(JSON.parse(receiver.received[0]!.body)).toMatchObject({ data: { job_id: jobId } })
    expect(receiver.received).toHaveLength(1)
    expect(errors).toEqual([])
  })

  test.runIf(runtime === 'workerd')(
    'the cron takes what is due and sends nothing to loopback',
    async () => {
      await endJob(receiver.url)
      await fetch(`${subject.url}/cdn-cgi/handler/scheduled`)
      const { data } = await call(deliveryPage, 200, 'GET', DELIVERIES)
      expect(data).toMatchObject([
        { state: 'failed', attempts: [{ status_code: null, error: 'url_refused' }] },
      ])
      expect(receiver.received).toHaveLength(0)
    },
  )
})

test('every call of this part is in the document with its own name', () => {
  const calls = listRoutes().map((route) => `${route.method} ${route.path}`)
  expect(calls.filter((name) => name.includes('/v1/webhook-')).toSorted()).toEqual([
    'delete /v1/webhook-endpoints/{endpoint_id}',
    'get /v1/webhook-deliveries',
    'get /v1/webhook-deliveries/{delivery_id}',
    'get /v1/webhook-endpoints',
    'get /v1/webhook-endpoints/{endpoint_id}',
    'get /v1/webhook-secret',
    'patch /v1/webhook-endpoints/{endpoint_id}',
    'post /v1/webhook-deliveries/{delivery_id}/replay',
    'post /v1/webhook-endpoints',
    'post /v1/webhook-endpoints/{endpoint_id}/rotate',
  ])
  expect(calls).toEqual(
    expect.arrayContaining([
      'get /v1/files/{job_id}/{file}',
      'post /v1/jobs/{job_id}/sign',
      'delete /v1/jobs/{job_id}',
    ]),
  )
  expect(calls.filter((name) => name.includes('/internal/'))).toEqual([])
})
