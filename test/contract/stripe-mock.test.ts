import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { accessSync, constants } from 'node:fs'
import { homedir } from 'node:os'
import { delimiter, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createStripe, toDecimal } from '../../billing/stripe/client.ts'
import type { Stripe } from '../../billing/stripe/client.ts'
import { SNAPSHOT_EVENTS } from '../../billing/stripe/events.ts'
import { findFreePort } from '../../infra/local/postgres.ts'
import { until } from '../support/worker.ts'

/**
 * Request shapes against Stripe's own description of its API. `go install github.com/stripe/stripe-mock@latest`
 * puts the binary where this looks for it; without it nothing here is proven, and the run says so.
 */
const binary = findBinary()
if (binary === null) {
  console.warn(
    'SKIPPED, request shapes are NOT checked: stripe-mock is not installed (see billing/LEDGER.md)',
  )
}

function findBinary(): string | null {
  const folders = [
    ...(process.env.PATH ?? '').split(delimiter),
    ...(process.env.GOPATH ? [join(process.env.GOPATH, 'bin')] : []),
    join(homedir(), 'go', 'bin'),
  ]
  for (const folder of folders) {
    const file = join(folder, 'stripe-mock')
    try {
      accessSync(file, constants.X_OK)
      return file
    } catch {
      continue
    }
  }
  return null
}

describe.skipIf(binary === null)('requests in the shape that stripe-mock knows', () => {
  let server: ChildProcess
  let stripe: Stripe

  beforeAll(async () => {
    const port = await findFreePort()
    const https = await findFreePort()
    server = spawn(binary ?? '', ['-http-port', String(port), '-https-port', String(https)], {
      stdio: 'ignore',
    })
    const apiBase = `http://127.0.0.1:${port}`
    stripe = createStripe({ secretKey: 'sk_test_mock', webhookSecrets: [], apiBase })
    await until(
      () =>
        fetch(apiBase).then(
          () => true,
          () => false,
        ),
      () => 'stripe-mock to listen',
    )
  })
  afterAll(() => void server.kill('SIGKILL'))

  const calls: Record<string, () => Promise<unknown>> = {
    customer: () => stripe.customers.create({ name: 'Acme', metadata: { org_id: 'org_1' } }),
    checkout: () =>
      stripe.checkout.sessions.create({
        mode: 'payment',
        customer: 'cus_1',
        client_reference_id: 'org_1',
        line_items: [
          {
            quantity: 1,
            price_data: {
              currency: 'usd',
              unit_amount: 1000,
              product_data: { name: 'Prepaid credit' },
            },
          },
        ],
        metadata: { topup_id: 'top_1' },
        payment_intent_data: { metadata: { topup_id: 'top_1' }, setup_future_usage: 'off_session' },
        success_url: 'https://a.example/',
        cancel_url: 'https://a.example/',
        expires_at: 1_790_000_000,
      }),
    'payment off session': () =>
      stripe.paymentIntents.create({
        amount: 2500,
        currency: 'usd',
        customer: 'cus_1',
        payment_method: 'pm_1',
        off_session: true,
        confirm: true,
        description: 'x',
        metadata: { topup_id: 'top_1' },
      }),
    'payments of a customer': () => stripe.paymentIntents.list({ customer: 'cus_1', limit: 100 }),
    'payment methods': () => stripe.customers.listPaymentMethods('cus_1', { limit: 1 }),
    meter: () =>
      stripe.billing.meters.create({
        display_name: 'Images',
        event_name: 'glyphpress_images',
        event_time_window: 'hour',
        default_aggregation: { formula: 'sum' },
        customer_mapping: { type: 'by_id', event_payload_key: 'stripe_customer_id' },
        value_settings: { event_payload_key: 'images' },
      }),
    'meter event': () =>
      stripe.billing.meterEvents.create({
        event_name: 'glyphpress_images',
        identifier: 'ev:org:images:2026101409:1',
        timestamp: 1_790_000_000,
        payload: { stripe_customer_id: 'cus_1', images: '3' },
      }),
    'meter summaries': () =>
      stripe.billing.meters.listEventSummaries('mtr_1', {
        customer: 'cus_1',
        start_time: 1_789_999_200,
        end_time: 1_790_002_800,
        value_grouping_window: 'hour',
        limit: 100,
      }),
    price: () =>
      stripe.prices.create({
        product: 'prod_1',
        currency: 'usd',
        unit_amount_decimal: toDecimal('1.5'),
        billing_scheme: 'per_unit',
        recurring: { interval: 'month', usage_type: 'metered', meter: 'mtr_1' },
        lookup_key: 'glyphpress_image',
        transfer_lookup_key: true,
      }),
    'price by name': () => stripe.prices.list({ lookup_keys: ['glyphpress_image'], active: true }),
    product: () =>
      stripe.products.create({ id: 'glyphpress_image', name: 'Image', unit_label: 'image' }),
    subscription: () =>
      stripe.subscriptions.create({
        customer: 'cus_1',
        items: [{ price: 'price_1' }],
        billing_cycle_anchor: 1_793_491_200,
        collection_method: 'send_invoice',
        days_until_due: 30,
        metadata: { org_id: 'org_1' },
      }),
    'invoice item': () =>
      stripe.invoiceItems.create({
        customer: 'cus_1',
        invoice: 'in_1',
        currency: 'usd',
        amount: -30,
        description: 'x',
        metadata: { identifier: 'ev:1' },
      }),
    'invoice items since': () =>
      stripe.invoiceItems.list({ customer: 'cus_1', limit: 100, created: { gte: 1 } }),
    invoice: () =>
      stripe.invoices.create({
        customer: 'cus_1',
        auto_advance: true,
        pending_invoice_items_behavior: 'include',
        metadata: { report_id: 'mtr_1' },
      }),
    'invoice on hold': () =>
      stripe.invoices.update('in_1', { automatically_finalizes_at: 1_790_000_000 }),
    'invoice lines': () => stripe.invoices.listLineItems('in_1', { limit: 100 }),
    'refunds of a charge': () => stripe.refunds.list({ charge: 'ch_1', limit: 100 }),
    dispute: () => stripe.disputes.retrieve('dp_1', { expand: ['charge'] }),
    portal: () =>
      stripe.billingPortal.sessions.create({ customer: 'cus_1', return_url: 'https://a.example/' }),
    'webhook endpoint': () =>
      stripe.webhookEndpoints.create({
        url: 'https://a.example/stripe/webhook',
        enabled_events: [...SNAPSHOT_EVENTS] as Stripe.WebhookEndpointCreateParams.EnabledEvent[],
        description: 'Glyphpress',
      }),
  }

  test.each(Object.keys(calls))('%s', async (name) => {
    await expect(calls[name]?.()).resolves.toBeDefined()
  })

  test('a parameter that Stripe does not know is noticed', async () => {
    const params = { name: 'Acme', no_such_parameter: 1 } as Stripe.CustomerCreateParams
    await expect(stripe.customers.create(params)).rejects.toThrow()
  })
})
