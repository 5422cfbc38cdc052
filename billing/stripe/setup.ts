import {
  METER_CUSTOMER_KEY,
  METER_EVENT_NAME,
  METER_VALUE_KEY,
  PRICE_LOOKUP_KEY,
  failureOf,
  toDecimal,
} from './client.ts'
import type { Stripe } from './client.ts'
import { SNAPSHOT_EVENTS, THIN_EVENTS } from './events.ts'

/** Our own id, so that a second run finds it. */
const PRODUCT_ID = 'glyphpress_image'
/** 1.5 cents, as text: no binary fraction is exactly that. */
export const PRICE_CENTS = '1.5'
const DESTINATION_NAME = 'Glyphpress meter errors'
/** More endpoints than an account can have. */
const MAX_LISTED = 500

export interface SetupStep {
  readonly what: 'product' | 'meter' | 'price' | 'webhook endpoint' | 'event destination'
  readonly id: string
  readonly did: 'made' | 'changed' | 'found'
}

export interface SetupResult {
  readonly steps: readonly SetupStep[]
  /** Signing secrets of what was made now; Stripe shows each of them this once. */
  readonly webhookSecrets: readonly string[]
}

/**
 * Makes what the Stripe side stands on: product, meter, metered price and both webhook endpoints. Safe to repeat:
 * what is there and right is left alone.
 *
 * @param input.webhookUrl where this gateway takes webhooks; null makes no endpoint
 * @throws when a meter of our name counts in another way, as that cannot be changed
 */
export async function setUpStripe(
  stripe: Stripe,
  input: { webhookUrl: string | null },
): Promise<SetupResult> {
  const product = await ensureProduct(stripe)
  const meter = await ensureMeter(stripe)
  const price = await ensurePrice(stripe, meter.id)
  const steps = [product, meter, price]
  const webhookSecrets: string[] = []
  if (input.webhookUrl !== null) {
    for (const ensure of [ensureEndpoint, ensureDestination]) {
      const { step, secret } = await ensure(stripe, input.webhookUrl)
      steps.push(step)
      if (secret !== null) webhookSecrets.push(secret)
    }
  }
  return { steps, webhookSecrets }
}

async function ensureProduct(stripe: Stripe): Promise<SetupStep> {
  try {
    const { id } = await stripe.products.retrieve(PRODUCT_ID)
    return { what: 'product', id, did: 'found' }
  } catch (error) {
    const failure = failureOf(error)
    if (failure.kind !== 'rejected') throw error
  }
  const { id } = await stripe.products.create(
    { id: PRODUCT_ID, name: 'Generated image', unit_label: 'image' },
    { idempotencyKey: `setup:product:${PRODUCT_ID}` },
  )
  return { what: 'product', id, did: 'made' }
}

async function ensureMeter(stripe: Stripe): Promise<SetupStep> {
  const meters = await stripe.billing.meters
    .list({ limit: 100, status: 'active' })
    .autoPagingToArray({ limit: MAX_LISTED })
  const found = meters.find((meter) => meter.event_name === METER_EVENT_NAME)
  if (found) {
    if (found.event_time_window !== 'hour' || found.default_aggregation.formula !== 'sum') {
      throw new Error(
        `The meter ${found.id} does not sum hours; deactivate it and run this again, as it cannot be changed.`,
      )
    }
    return { what: 'meter', id: found.id, did: 'found' }
  }
  const { id } = await stripe.billing.meters.create(
    {
      display_name: 'Generated images',
      event_name: METER_EVENT_NAME,
      event_time_window: 'hour',
      default_aggregation: { formula: 'sum' },
      customer_mapping: { type: 'by_id', event_payload_key: METER_CUSTOMER_KEY },
      value_settings: { event_payload_key: METER_VALUE_KEY },
    },
    { idempotencyKey: `setup:meter:${METER_EVENT_NAME}` },
  )
  return { what: 'meter', id, did: 'made' }
}

async function ensurePrice(stripe: Stripe, meterId: string): Promise<SetupStep> {
  const cents = toDecimal(PRICE_CENTS)
  const { data } = await stripe.prices.list({ lookup_keys: [PRICE_LOOKUP_KEY], active: true })
  const [found] = data
  if (found?.unit_amount_decimal?.eq(cents) && found.recurring?.meter === meterId) {
    return { what: 'price', id: found.id, did: 'found' }
  }
  const { id } = await stripe.prices.create(
    {
      product: PRODUCT_ID,
      currency: 'usd',
      unit_amount_decimal: cents,
      billing_scheme: 'per_unit',
      recurring: { interval: 'month', usage_type: 'metered', meter: meterId },
      lookup_key: PRICE_LOOKUP_KEY,
      // A price cannot be edited; a wrong one loses the name to its successor.
      transfer_lookup_key: true,
    },
    { idempotencyKey: `setup:price:${meterId}:${PRICE_CENTS}:${found?.id ?? 'first'}` },
  )
  return { what: 'price', id, did: found === undefined ? 'made' : 'changed' }
}

async function ensureEndpoint(
  stripe: Stripe,
  url: string,
): Promise<{ step: SetupStep; secret: string | null }> {
  const endpoints = await stripe.webhookEndpoints
    .list({ limit: 100 })
    .autoPagingToArray({ limit: MAX_LISTED })
  const found = endpoints.find((endpoint) => endpoint.url === url)
  const wanted = [...SNAPSHOT_EVENTS] as Stripe.WebhookEndpointCreateParams.EnabledEvent[]
  if (found === undefined) {
    const made = await stripe.webhookEndpoints.create({
      url,
      enabled_events: wanted,
      api_version: stripe.getConstant(
        'DEFAULT_API_VERSION',
      ) as Stripe.WebhookEndpointCreateParams.ApiVersion,
      description: 'Glyphpress',
    })
    return {
      step: { what: 'webhook endpoint', id: made.id, did: 'made' },
      secret: made.secret ?? null,
    }
  }
  const isRight = sameSet(found.enabled_events, wanted)
  if (!isRight) await stripe.webhookEndpoints.update(found.id, { enabled_events: wanted })
  const did = isRight ? 'found' : 'changed'
  return { step: { what: 'webhook endpoint', id: found.id, did }, secret: null }
}

/** The meter's error reports exist as thin events alone, which need a destination of their own. */
async function ensureDestination(
  stripe: Stripe,
  url: string,
): Promise<{ step: SetupStep; secret: string | null }> {
  const destinations = await stripe.v2.core.eventDestinations
    .list({ limit: 100, include: ['webhook_endpoint.url'] })
    .autoPagingToArray({ limit: MAX_LISTED })
  const found = destinations.find(
    (destination) =>
      destination.event_payload === 'thin' && destination.webhook_endpoint?.url === url,
  )
  if (found === undefined) {
    const made = await stripe.v2.core.eventDestinations.create({
      name: DESTINATION_NAME,
      type: 'webhook_endpoint',
      event_payload: 'thin',
      enabled_events: [...THIN_EVENTS],
      webhook_endpoint: { url },
      include: ['webhook_endpoint.signing_secret', 'webhook_endpoint.url'],
    })
    return {
      step: { what: 'event destination', id: made.id, did: 'made' },
      secret: made.webhook_endpoint?.signing_secret ?? null,
    }
  }
  const isRight = sameSet(found.enabled_events, THIN_EVENTS)
  if (!isRight) {
    await stripe.v2.core.eventDestinations.update(found.id, { enabled_events: [...THIN_EVENTS] })
  }
  const did = isRight ? 'found' : 'changed'
  return { step: { what: 'event destination', id: found.id, did }, secret: null }
}

function sameSet(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((name) => b.includes(name))
}
