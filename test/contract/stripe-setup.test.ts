import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createStripe } from '../../billing/stripe/client.ts'
import { setUpStripe } from '../../billing/stripe/setup.ts'
import { startFakeStripe } from '../support/fake-stripe/server.ts'
import type { FakeStripe } from '../support/fake-stripe/server.ts'

let fake: FakeStripe

beforeAll(async () => {
  fake = await startFakeStripe(Date.UTC(2026, 9, 1))
})
afterAll(() => fake.close())

const stripe = () =>
  createStripe({ secretKey: 'sk_test_fake', webhookSecrets: [], apiBase: fake.url })
const webhookUrl = 'https://images.example/stripe/webhook'

test('the first run makes everything, a second one nothing', async () => {
  const first = await setUpStripe(stripe(), { webhookUrl })
  expect(first.steps.map(({ what, did }) => `${did} ${what}`)).toEqual([
    'made product',
    'made meter',
    'made price',
    'made webhook endpoint',
    'made event destination',
  ])
  expect(first.webhookSecrets).toHaveLength(2)
  const second = await setUpStripe(stripe(), { webhookUrl })
  expect(second.steps.every(({ did }) => did === 'found')).toBe(true)
  expect(second.webhookSecrets).toEqual([])
})

test('the price is exactly 1.5 cents, on a meter that sums hours', async () => {
  const [price] = fake.state.prices.values()
  const [meter] = fake.state.meters.values()
  expect(price).toMatchObject({
    unit_amount_decimal: '1.5',
    recurring: { usage_type: 'metered', meter: meter?.id },
  })
  expect(meter).toMatchObject({
    event_time_window: 'hour',
    default_aggregation: { formula: 'sum' },
  })
})

test('a price that is wrong loses its name to a right one, and missing events are added', async () => {
  const [price] = fake.state.prices.values()
  if (price) price.unit_amount_decimal = '2'
  const [endpoint] = fake.state.endpoints.values()
  if (endpoint) endpoint.enabled_events = ['invoice.paid']
  const { steps } = await setUpStripe(stripe(), { webhookUrl })
  expect(steps.filter(({ did }) => did === 'changed').map(({ what }) => what)).toEqual([
    'price',
    'webhook endpoint',
  ])
})

test('the command prints what it did and the secrets to set, once', async () => {
  const run = async () => {
    const { stdout } = await promisify(execFile)(
      'node_modules/.bin/node',
      [
        '--disable-warning=ExperimentalWarning',
        '--experimental-strip-types',
        'billing/stripe/setup-cli.ts',
        '--url',
        'https://second.example',
      ],
      { env: { ...process.env, STRIPE_SECRET_KEY: 'sk_test_fake', STRIPE_API_BASE: fake.url } },
    )
    return stdout
  }
  const first = await run()
  expect(first).toMatch(/found +meter: mtr_/)
  expect(first).toMatch(/made +webhook endpoint: we_/)
  expect(first).toMatch(/STRIPE_WEBHOOK_SECRET=whsec_we_\d+,whsec_ed_\d+/)
  expect(await run()).not.toContain('STRIPE_WEBHOOK_SECRET')
}, 120_000)

test('a meter that counts in another way is not used', async () => {
  const [meter] = fake.state.meters.values()
  if (meter) meter.event_time_window = null
  await expect(setUpStripe(stripe(), { webhookUrl: null })).rejects.toThrow('does not sum hours')
})
