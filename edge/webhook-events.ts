import { z } from '@hono/zod-openapi'
import type { OpenAPIHono } from '@hono/zod-openapi'
import type { RequestState } from './deps.ts'
import type { eventType } from './webhook-contract.ts'

const instant = z.iso.datetime()
const usd = z.string().regex(/^-?\d+\.\d{6}$/)

const jobData = z
  .strictObject({
    job_id: z.string(),
    state: z.string(),
    delivered: z.int(),
    billed: z.boolean(),
    billed_reason: z.string(),
    /** Whether every picture passed its text check; null where nothing was checked. */
    text_passed: z.boolean().nullable(),
    request_id: z.string().nullable(),
  })
  .openapi('JobEventData')

const disabledData = z
  .strictObject({ endpoint_id: z.string(), url: z.string(), reason: z.enum(['gone', 'failing']) })
  .openapi('WebhookEndpointDisabledData')

export const thresholdData = z
  .strictObject({
    scope: z.enum(['key', 'team', 'org']),
    scope_id: z.string(),
    /** `total`: the limit of all that this level may ever spend. */
    period: z.enum(['day', 'month', 'total']),
    /** In basis points of the limit. */
    threshold_bp: z.int(),
    currency: z.literal('USD'),
    /** As it was set. */
    limit: usd,
    spent: usd,
    resets_at: instant.nullable(),
  })
  .openapi('BudgetThresholdData')

const EVENTS = {
  'job.succeeded': ['A job ended with at least one picture.', jobData],
  'job.failed': ['A job ended without a picture. Nothing was charged.', jobData],
  'job.canceled': ['A job was canceled before it had a picture.', jobData],
  'job.expired': ['A job did not end before its deadline.', jobData],
  'webhook_endpoint.disabled': ['An endpoint was switched off, told to the others.', disabledData],
  'budget.threshold_reached': [
    'Captured spending has reached a share of a limit: once for each share of a day, a month or a total.',
    thresholdData,
  ],
} as const satisfies Record<z.output<typeof eventType>, [summary: string, data: z.ZodType]>

/** Puts the events into the document, each with the body that is sent. */
export function describeEvents({ openAPIRegistry }: OpenAPIHono<RequestState>): void {
  for (const [type, [summary, data]] of Object.entries(EVENTS)) {
    const schema = z.strictObject({ type: z.literal(type), timestamp: instant, data })
    openAPIRegistry.registerWebhook({
      method: 'post',
      path: type,
      summary,
      tags: ['Webhooks'],
      security: [],
      request: { body: { required: true, content: { 'application/json': { schema } } } },
      responses: { 200: { description: 'Any 2xx: the event has arrived.' } },
    })
  }
}
