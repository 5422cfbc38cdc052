import { afterAll, beforeAll, expect, test } from 'vitest'
import { createStripe } from '../../billing/stripe/client.ts'
import { setUpStripe } from '../../billing/stripe/setup.ts'
import { payCheckout } from '../support/fake-stripe/payments.ts'
import { startFakeStripe } from '../support/fake-stripe/server.ts'
import type { FakeStripe } from '../support/fake-stripe/server.ts'
import { startTestGateway } from '../support/gateway.ts'
import type { TestGateway } from '../support/gateway.ts'
import { createTenant } from '../support/tenant.ts'
import { until } from '../support/worker.ts'

let fake: FakeStripe
let gateway: TestGateway

beforeAll(async () => {
  fake = await startFakeStripe(Date.now())
  await setUpStripe(
    createStripe({ secretKey: 'sk_test_fake', webhookSecrets: [], apiBase: fake.url }),
    {
      webhookUrl: null,
    },
  )
  gateway = await startTestGateway({
    runtime: 'workerd',
    env: {
      STRIPE_SECRET_KEY: 'sk_test_fake',
      STRIPE_WEBHOOK_SECRET: fake.secret,
      STRIPE_API_BASE: fake.url,
    },
  })
})
afterAll(async () => {
  await gateway.close()
  await fake.close()
})

test('in workerd a top-up is opened, its webhook verified, and its credit given', async () => {
  const { db } = gateway.database
  const { orgId, apiKey } = await createTenant(db, { scopes: ['billing', 'read'] })
  await db.sql`update org set settlement_mode = 'prepaid' where id = ${orgId}`
  await db.sql`update budget set limit_micros = 0 where scope = 'org' and scope_id = ${orgId}`
  const made = await gateway.call('POST', '/v1/topups', { key: apiKey, body: { amount_usd: '10' } })
  expect(made.status).toBe(201)
  payCheckout(fake.state, String(made.body.checkout_url).split('/').at(-1) ?? '')
  const post = async (body: string, signature: string) =>
    (
      await fetch(new URL('/stripe/webhook', gateway.url), {
        method: 'POST',
        headers: { 'stripe-signature': signature, 'content-type': 'application/json' },
        body,
      })
    ).status
  for (const event of fake.state.events) {
    expect(await post(event.body, await fake.sign(event))).toBe(200)
    expect(await post(`${event.body} `, await fake.sign(event))).toBe(403)
  }
  await until(
    async () => {
      const { body } = await gateway.call('GET', '/v1/topups', { key: apiKey })
      return body.data[0]?.state === 'paid'
    },
    () => 'the top-up to be paid',
  )
  const [row] = await db.sql<{ credit: bigint }[]>`
    select limit_micros as credit from budget where scope = 'org' and scope_id = ${orgId} and kind = 'balance'`
  expect(row?.credit).toBe(10_000_000n)
})
