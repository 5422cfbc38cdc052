import { z } from '@hono/zod-openapi'
import { ID_PREFIXES } from '../db/ids.ts'
import type { IdKind } from '../db/ids.ts'
import type { LoggedDelivery } from '../db/webhook-log.ts'
import type { EndpointRow } from '../db/webhooks.ts'
import { pageLimit, text } from './contract.ts'
import { ApiError } from './errors.ts'
import { ADDRESS_REFUSALS, checkWebhookUrl } from './webhook-address.ts'
import { webhookSecrets } from './webhook-signature.ts'

const instant = z.iso.datetime()

/** Everything that is ever sent. */
export const eventType = z.enum([
  'job.succeeded',
  'job.failed',
  'job.canceled',
  'job.expired',
  'webhook_endpoint.disabled',
  'budget.threshold_reached',
])

const url = text.min(1)
const description = text.max(256)
const eventTypes = z.array(eventType).max(eventType.options.length)

/** `POST /v1/webhook-endpoints`; no event types means all of them. */
export const createEndpointBody = z
  .strictObject({
    url,
    description: description.nullable().default(null),
    event_types: eventTypes.default([]),
  })
  .openapi('CreateWebhookEndpoint')

export const updateEndpointBody = z
  .strictObject({
    url: url.optional(),
    description: description.nullable().optional(),
    event_types: eventTypes.optional(),
    enabled: z.boolean().optional(),
  })
  .openapi('UpdateWebhookEndpoint')

export const wireEndpoint = z
  .strictObject({
    id: z.string(),
    object: z.literal('webhook_endpoint'),
    url: z.string(),
    description: z.string().nullable(),
    event_types: z.array(z.string()),
    enabled: z.boolean(),
    disabled_reason: z.string().nullable(),
    failing_since: instant.nullable(),
    deferred_until: instant
      .nullable()
      .openapi({ description: 'Its receiver was overloaded; nothing is sent before this moment.' }),
    public_key: z.string().openapi({ example: 'whpk_...' }),
    previous_secret_until: instant.nullable(),
    created_at: instant,
  })
  .openapi('WebhookEndpoint')

/** The secret is shown when it is made and not again. */
export const wireEndpointWithSecret = wireEndpoint
  .extend({ secret: z.string().openapi({ example: 'whsec_...' }) })
  .openapi('WebhookEndpointWithSecret')

export const endpointList = z
  .strictObject({ object: z.literal('list'), data: z.array(wireEndpoint) })
  .openapi('WebhookEndpointList')

export const endpointDeleted = z
  .strictObject({ id: z.string(), deleted: z.literal(true) })
  .openapi('WebhookEndpointDeleted')

export const deliveryState = z.enum(['pending', 'delivered', 'failed', 'canceled'])

export const wireDelivery = z
  .strictObject({
    id: z.string(),
    object: z.literal('webhook_delivery'),
    event_id: z.string(),
    event_type: z.string(),
    subject_id: z.string(),
    endpoint_id: z.string().nullable(),
    url: z.string(),
    state: deliveryState,
    next_attempt_at: instant.nullable(),
    delivered_at: instant.nullable(),
    created_at: instant,
    attempts: z.array(
      z.strictObject({
        started_at: instant,
        duration_ms: z.int(),
        status_code: z.int().nullable(),
        error: z.string().nullable(),
      }),
    ),
  })
  .openapi('WebhookDelivery')

/** `GET /v1/webhook-deliveries` */
export const deliveryQuery = z.strictObject({
  endpoint_id: idOf('endpoint').optional(),
  job_id: idOf('job').optional(),
  state: deliveryState.optional(),
  before: idOf('delivery').optional(),
  limit: pageLimit(20, 100),
})

export const deliveryPage = z
  .strictObject({
    object: z.literal('list'),
    data: z.array(wireDelivery),
    has_more: z.boolean(),
    next_before: z.string().nullable(),
  })
  .openapi('WebhookDeliveryPage')

export const secretAnswer = z
  .strictObject({ secret: z.string(), public_key: z.string() })
  .openapi('WebhookSecret')

export const endpointIdParam = z.object({
  endpoint_id: z.string().openapi({ example: 'whe_01k...' }),
})

export const deliveryIdParam = z.object({
  delivery_id: z.string().openapi({ example: 'whd_01k...' }),
})

/** Text that can be an id of this kind; whether there is such a one, the database knows. */
function idOf(kind: IdKind) {
  return z.string().regex(new RegExp(`^${ID_PREFIXES[kind]}_\\w{1,60}$`))
}

/** An endpoint as shown, without its secret. */
export async function toWireEndpoint(
  pepper: string,
  row: EndpointRow,
): Promise<z.output<typeof wireEndpoint>> {
  const { secret: _secret, ...shown } = await toWireEndpointWithSecret(pepper, row)
  return shown
}

/** An endpoint with the secret of its present version. */
export async function toWireEndpointWithSecret(
  pepper: string,
  row: EndpointRow,
): Promise<z.output<typeof wireEndpointWithSecret>> {
  const keys = await webhookSecrets(pepper, { id: row.id, version: row.secretVersion })
  return {
    id: row.id,
    object: 'webhook_endpoint',
    url: row.url,
    description: row.description,
    event_types: row.eventTypes,
    enabled: row.enabled,
    disabled_reason: row.disabledReason,
    failing_since: row.failingSince?.toISOString() ?? null,
    deferred_until: row.deferredUntil?.toISOString() ?? null,
    public_key: keys.publicKey,
    previous_secret_until: row.previousSecretUntil?.toISOString() ?? null,
    created_at: row.createdAt.toISOString(),
    secret: keys.secret,
  }
}

/** A delivery with its log. */
export function toWireDelivery(logged: LoggedDelivery): z.output<typeof wireDelivery> {
  const { delivery, event, attempts } = logged
  return {
    id: delivery.id,
    object: 'webhook_delivery',
    event_id: delivery.eventId,
    event_type: event.type,
    subject_id: event.subjectId,
    endpoint_id: delivery.endpointId,
    url: delivery.url,
    state: delivery.state,
    next_attempt_at: delivery.state === 'pending' ? delivery.nextAttemptAt.toISOString() : null,
    delivered_at: delivery.deliveredAt?.toISOString() ?? null,
    created_at: delivery.createdAt.toISOString(),
    attempts: attempts.map((attempt) => ({
      started_at: attempt.startedAt.toISOString(),
      duration_ms: attempt.durationMs,
      status_code: attempt.statusCode,
      error: attempt.error,
    })),
  }
}

/** The URL as it will be used. @throws ApiError naming the rule that it breaks */
export function requireWebhookUrl(text: string, deps: { allowLoopbackWebhooks: boolean }): string {
  const checked = checkWebhookUrl(text, { allowLoopback: deps.allowLoopbackWebhooks })
  if (checked.ok) return checked.url.href
  throw new ApiError('invalid_request', {
    message: `url: ${ADDRESS_REFUSALS[checked.reason]}.`,
    param: 'url',
  })
}

/** @throws ApiError, always */
export function refuseEndpoint(endpointId: string): never {
  throw new ApiError('not_found', { message: `There is no webhook endpoint ${endpointId}.` })
}

/** @throws ApiError, always */
export function refuseDelivery(deliveryId: string): never {
  throw new ApiError('not_found', { message: `There is no delivery ${deliveryId}.` })
}
