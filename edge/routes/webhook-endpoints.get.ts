import { createRoute } from '@hono/zod-openapi'
import { findEndpoint } from '../../db/webhooks.ts'
import type { Deps } from '../deps.ts'
import { KEY_ERRORS, createRouter, errorResponses, jsonResponse } from '../openapi.ts'
import {
  endpointIdParam,
  refuseEndpoint,
  toWireEndpoint,
  wireEndpoint,
} from '../webhook-contract.ts'

const route = createRoute({
  method: 'get',
  path: '/v1/webhook-endpoints/{endpoint_id}',
  tags: ['Webhooks'],
  summary: 'One endpoint with its health',
  request: { params: endpointIdParam },
  responses: {
    200: jsonResponse(wireEndpoint, 'The endpoint, without its secret.'),
    ...errorResponses(...KEY_ERRORS, 'not_found'),
  },
})

/** `GET /v1/webhook-endpoints/{endpoint_id}`: another org's endpoint is not there. */
export function webhookEndpointsGet(deps: Deps) {
  return createRouter().openapi(route, async (c) => {
    const { endpoint_id: endpointId } = c.req.valid('param')
    const { orgId } = c.get('principal')
    const row = await findEndpoint(deps.db, { orgId, endpointId })
    if (row === null) refuseEndpoint(endpointId)
    return c.json(await toWireEndpoint(deps.pepper, row), 200)
  })
}
