import { createRoute, z } from '@hono/zod-openapi'
import { listDeliveries } from '../../db/webhook-log.ts'
import { pageLimit } from '../contract.ts'
import type { Deps } from '../deps.ts'
import { KEY_ERRORS, createRouter, errorResponses, jsonResponse } from '../openapi.ts'
import { deliveryPage, deliveryState, toWireDelivery } from '../webhook-contract.ts'

const route = createRoute({
  method: 'get',
  path: '/v1/webhook-deliveries',
  tags: ['Webhooks'],
  summary: 'The delivery log, with every attempt and its status',
  request: {
    query: z.strictObject({
      endpoint_id: z.string().max(64).optional(),
      job_id: z.string().max(64).optional(),
      state: deliveryState.optional(),
      before: z.string().max(64).optional(),
      limit: pageLimit(20, 100),
    }),
  },
  responses: {
    200: jsonResponse(deliveryPage, 'A page; pass `next_before` as `before` for the next one.'),
    ...errorResponses(...KEY_ERRORS, 'invalid_request'),
  },
})

/** `GET /v1/webhook-deliveries`, newest first. */
export function webhookDeliveriesList(deps: Deps) {
  return createRouter().openapi(route, async (c) => {
    const query = c.req.valid('query')
    const rows = await listDeliveries(deps.db, {
      orgId: c.get('principal').orgId,
      limit: query.limit + 1,
      ...(query.endpoint_id === undefined ? {} : { endpointId: query.endpoint_id }),
      ...(query.job_id === undefined ? {} : { subjectId: query.job_id }),
      ...(query.state === undefined ? {} : { state: query.state }),
      ...(query.before === undefined ? {} : { before: query.before }),
    })
    const page = rows.slice(0, query.limit)
    const hasMore = rows.length > query.limit
    return c.json(
      {
        object: 'list' as const,
        data: page.map(toWireDelivery),
        has_more: hasMore,
        next_before: hasMore ? (page.at(-1)?.delivery.id ?? null) : null,
      },
      200,
    )
  })
}
