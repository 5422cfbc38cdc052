import { Stripe } from 'stripe'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createTestApp } from '../support/app.ts'
import type { TestApp } from '../support/app.ts'
import { createContractCheck } from '../support/contract-check.ts'
import { payCheckout } from '../support/fake-stripe/payments.ts'
import { openStripeWorld } from '../support/stripe-world.ts'
import type { StripeWorld } from '../support/stripe-world.ts'
import { createTenant } from '../support/tenant.ts'
import type { Tenant } from '../support/tenant.ts'
import { until } from '../support/worker.ts'

const objects = {} as Parameters<typeof createTestApp>[1]['objects']
const check = createContractCheck()
const sdk = new Stripe('sk_test_any')

let world: StripeWorld
let app: TestApp
let bare: TestApp
let tenant: Tenant

beforeAll(async () => {
  world = await openStripeWorld()
  app = createTestApp(world.db, { objects, stripe: world.deps })
  bare = createTestApp(world.db, { objects })
  tenant = await createTenant(world.db, { scopes: ['billing', 'read'] })
  await world.db.sql`update org set settlement_mode = 'prepaid' where id = ${tenant.orgId}`
  await world.db
    .sql`update budget set limit_micros = 0 where scope = 'org' and scope_id = ${tenant.orgId}`
})
afterAll(() => world.close())

async function call(
  method: string,
  path: string,
  body?: unknown,
  apiKey = tenant.apiKey,
  to = app,
) {
  const response = await to.call(method, path, { apiKey, ...(body === undefined ? {} : { body }) })
  const { status } = response
  return { status, body: (await check(method, path, response)) as Record<string, unknown> }
}

async function post(payload: string, header: string | null) {
  return app.call('POST', '/stripe/webhook', {
    headers: header === null ? {} : { 'stripe-signature': header },
    // The helper sends JSON; what was signed must be the same text.
    body: JSON.parse(payload) as unknown,
  })
}

const signed = (payload: string, options: { secret?: string; timestamp?: number } = {}) =>
  sdk.webhooks.generateTestHeaderStringAsync({
    payload,
    secret: options.secret ?? world.fake.secret,
    ...(options.timestamp === undefined ? {} : { timestamp: options.timestamp }),
  })

const eventText = (id: string, type = 'customer.created') =>
  JSON.stringify({ id, object: 'event', type, data: { object: { id: 'cus_1' } } })

describe('without Stripe', () => {
  test('its routes say that payments are not set up, and nothing else changes', async () => {
    for (const [method, path, body] of [
      ['POST', '/v1/topups', { amount_usd: '10' }],
      ['GET', '/v1/topups', undefined],
      ['GET', '/v1/auto-topup', undefined],
      ['PUT', '/v1/auto-topup', { enabled: false }],
      ['POST', '/v1/billing/portal', {}],
    ] as const) {
      const answer = await call(method, path, body, tenant.apiKey, bare)
      expect(answer.status).toBe(501)
      expect(answer.body.type).toBe('urn:glyphpress:error:not_configured')
    }
    expect((await bare.call('POST', '/stripe/webhook', { body: {} })).status).toBe(501)
    expect((await call('GET', '/v1/balance', undefined, tenant.apiKey, bare)).status).toBe(200)
  })
})

describe('POST /stripe/webhook', () => {
  test('stores an event once, however often it comes, and answers 200', async () => {
    const text = eventText('evt_twice')
    for (let round = 0; round < 3; round++)
      expect((await post(text, await signed(text))).status).toBe(200)
    const rows = await world.db.sql`select type from stripe_event where id = 'evt_twice'`
    expect(rows).toEqual([{ type: 'customer.created' }])
  })

  test('takes a thin event as well', async () => {
    const text = JSON.stringify({
      id: 'evt_thin',
      object: 'v2.core.event',
      type: 'v2.core.event_destination.ping',
      created: '2026-10-14T10:30:00.000Z',
      livemode: false,
    })
    expect((await post(text, await signed(text))).status).toBe(200)
    expect(await world.db.sql`select 1 from stripe_event where id = 'evt_thin'`).toHaveLength(1)
  })

  test('refuses what Stripe did not sign: no header, another secret, an old or changed body', async () => {
    const text = eventText('evt_forged')
    const old = Math.floor(Date.now() / 1000) - 600
    for (const header of [
      null,
      'nonsense',
      await signed(text, { secret: 'whsec_other' }),
      await signed(text, { timestamp: old }),
      await signed(eventText('evt_other')),
    ]) {
      expect((await post(text, header)).status).toBe(403)
    }
    expect(await world.db.sql`select 1 from stripe_event where id = 'evt_forged'`).toEqual([])
  })

  test('takes events of each secret while one is rotated', async () => {
    const rotating = createTestApp(world.db, {
      objects,
      stripe: { ...world.deps, webhookSecrets: ['whsec_new', world.fake.secret] },
    })
    const text = eventText('evt_rotated')
    const headers = { 'stripe-signature': await signed(text) }
    const response = await rotating.call('POST', '/stripe/webhook', {
      headers,
      body: JSON.parse(text) as unknown,
    })
    expect(response.status).toBe(200)
  })
})

describe('/v1/topups', () => {
  test('opens a page, lists the payment, and shows it paid after the webhook', async () => {
    const made = await call('POST', '/v1/topups', { amount_usd: '12.50' })
    expect(made).toMatchObject({ status: 201, body: { amount: '12.500000' } })
    const { checkout_url: url, id } = made.body
    payCheckout(world.fake.state, String(url).split('/').at(-1) ?? '')
    for (const event of world.fake.state.events) {
      expect((await post(event.body, await world.fake.sign(event))).status).toBe(200)
    }
    await until(
      async () => {
        const listed = await call('GET', '/v1/topups?limit=1')
        return (listed.body.data as { state: string }[])[0]?.state === 'paid'
      },
      () => 'the top-up to be paid',
    )
    const listed = await call('GET', '/v1/topups')
    expect(listed.body.data).toMatchObject([
      { id, state: 'paid', kind: 'checkout', amount: '12.500000' },
    ])
    const balance = await call('GET', '/v1/balance')
    expect((balance.body.levels as { credit: string }[]).at(-1)?.credit).toBe('12.500000')
  })

  test.each(['4.99', '50000.01', '10.001', '-10', '1e3', 'ten', '0x10'])(
    'refuses %s dollars',
    async (amount) => {
      expect((await call('POST', '/v1/topups', { amount_usd: amount })).status).toBe(400)
    },
  )

  test('needs a key with the scope billing, and shows an org its own alone', async () => {
    const other = await createTenant(world.db, { scopes: ['generate', 'read', 'webhooks'] })
    expect((await call('GET', '/v1/topups', undefined, other.apiKey)).status).toBe(403)
    const stranger = await createTenant(world.db, { scopes: ['billing'] })
    expect((await call('GET', '/v1/topups', undefined, stranger.apiKey)).body.data).toEqual([])
    expect((await call('POST', '/v1/topups', { amount_usd: 10 }, stranger.apiKey)).status).toBe(400)
  })

  test('says that it is not reachable when Stripe is not', async () => {
    world.fake.fault = () => 'lost'
    expect((await call('POST', '/v1/topups', { amount_usd: '10' })).status).toBe(503)
    world.fake.fault = () => 'none'
  })
})

test('/v1/auto-topup is set, read and switched off', async () => {
  const set = { enabled: true, below_usd: '5', amount_usd: '25.00' }
  const answer = { enabled: true, below: '5.000000', amount: '25.000000' }
  expect(await call('PUT', '/v1/auto-topup', set)).toMatchObject({ status: 200, body: answer })
  expect((await call('GET', '/v1/auto-topup')).body).toEqual(answer)
  expect((await call('PUT', '/v1/auto-topup', { enabled: true })).status).toBe(400)
  await call('PUT', '/v1/auto-topup', { enabled: false })
  expect((await call('GET', '/v1/auto-topup')).body).toEqual({
    enabled: false,
    below: null,
    amount: null,
  })
})

test('an org whose payment is disputed or due starts no job in any dialect, and hears why: 402, Z.ai 429', async () => {
  const frozen = await createTenant(world.db)
  await world.db.sql`
    update org set frozen_at = now(), frozen_reason = 'disputed_payment' where id = ${frozen.orgId}`
  const body = { model: 'glm-image', prompt: "A sign 'OPEN'" }
  for (const [path, status] of [
    ['/v1/jobs', 402],
    ['/v1/images/generations', 402],
    ['/api/paas/v4/images/generations', 429],
    ['/api/paas/v4/async/images/generations', 429],
  ] as const) {
    const response = await app.call('POST', path, { apiKey: frozen.apiKey, body })
    expect([response.status, response.headers.get('x-should-retry')]).toEqual([status, 'false'])
    expect(await check('POST', path, response)).toMatchObject({
      error: {
        type: 'org_frozen',
        code: '1113',
        message: expect.stringContaining('disputed or due'),
      },
    })
  }
  expect((await call('GET', '/v1/balance', undefined, frozen.apiKey)).status).toBe(200)
  await world.db
    .sql`update org set frozen_at = null, frozen_reason = null where id = ${frozen.orgId}`
  const made = await app.call('POST', '/v1/jobs', { apiKey: frozen.apiKey, body })
  expect(made.status).toBe(201)
})

test('/v1/billing/portal leads to a page of the org', async () => {
  const answer = await call('POST', '/v1/billing/portal', { return_url: 'https://a.example/' })
  expect(answer.status).toBe(201)
  expect(answer.body.url).toContain(await world.customerOf(tenant.orgId))
})
