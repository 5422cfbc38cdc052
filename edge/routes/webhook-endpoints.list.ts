import { createRoute } from '@hono/zod-openapi'
import { listEndpoints } from '../../db/webhooks.ts'
import type { Deps } from '../deps.ts'
import { KEY_ERRORS, createRouter, errorResponses, jsonResponse } from '../openapi.ts'
import { endpointList, toWireEndpoint } from '../webhook-contract.ts'

const route = createRoute({
  method: 'get',
  path: '/v1/webhook-endpoints',
  tags: ['Webhooks'],
  summary: 'All endpoints of the organisation with their health',
  responses: {
    200: jsonResponse(endpointList, 'The endpoints, newest first.'),
    ...errorResponses(...KEY_ERRORS),
  },
})

/** `GET /v1/webhook-endpoints` */
export function webhookEndpointsList(deps: Deps) {
  return createRouter().openapi(route, async (c) => {
    const rows = await listEndpoints(deps.db, c.get('principal').orgId)
    const data = await Promise.all(rows.map((row) => toWireEndpoint(deps.pepper, row)))
    return c.json({ object: 'list' as const, data }, 200)
  })
}
