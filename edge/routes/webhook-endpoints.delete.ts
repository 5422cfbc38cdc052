import { createRoute } from '@hono/zod-openapi'
import { deleteEndpoint } from '../../db/webhooks.ts'
import type { Deps } from '../deps.ts'
import { KEY_ERRORS, createRouter, errorResponses, jsonResponse } from '../openapi.ts'
import { endpointDeleted, endpointIdParam, refuseEndpoint } from '../webhook-contract.ts'

const route = createRoute({
  method: 'delete',
  path: '/v1/webhook-endpoints/{endpoint_id}',
  tags: ['Webhooks'],
  summary: 'Remove an endpoint; what still waits for it is not sent',
  request: { params: endpointIdParam },
  responses: {
    200: jsonResponse(endpointDeleted, 'It is gone.'),
    ...errorResponses(...KEY_ERRORS, 'not_found'),
  },
})

/** `DELETE /v1/webhook-endpoints/{endpoint_id}`. A repeat finds nothing: 404. */
export function webhookEndpointsDelete(deps: Deps) {
  return createRouter().openapi(route, async (c) => {
    const { endpoint_id: endpointId } = c.req.valid('param')
    const isDeleted = await deleteEndpoint(deps.db, {
      orgId: c.get('principal').orgId,
      endpointId,
      at: deps.now(),
    })
    if (!isDeleted) refuseEndpoint(endpointId)
    return c.json({ id: endpointId, deleted: true as const }, 200)
  })
}
