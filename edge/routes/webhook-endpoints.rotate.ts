import { createRoute } from '@hono/zod-openapi'
import { rotateEndpointSecret } from '../../db/webhooks.ts'
import type { Deps } from '../deps.ts'
import { KEY_ERRORS, createRouter, errorResponses, jsonResponse } from '../openapi.ts'
import {
  endpointIdParam,
  refuseEndpoint,
  toWireEndpointWithSecret,
  wireEndpointWithSecret,
} from '../webhook-contract.ts'

/** A day for the receiver to take the new secret into use without losing an event. */
const OVERLAP_SECONDS = 86_400

const route = createRoute({
  method: 'post',
  path: '/v1/webhook-endpoints/{endpoint_id}/rotate',
  tags: ['Webhooks'],
  summary: 'Make a new secret; for a day messages are signed with the old one too',
  request: { params: endpointIdParam },
  responses: {
    200: jsonResponse(wireEndpointWithSecret, 'The endpoint with its new secret.'),
    ...errorResponses(...KEY_ERRORS, 'not_found'),
  },
})

/** `POST /v1/webhook-endpoints/{endpoint_id}/rotate`. A second call within the day ends the first secret. */
export function webhookEndpointsRotate(deps: Deps) {
  return createRouter().openapi(route, async (c) => {
    const { endpoint_id: endpointId } = c.req.valid('param')
    const row = await rotateEndpointSecret(deps.db, {
      orgId: c.get('principal').orgId,
      endpointId,
      previousSecretUntil: new Date(deps.now().getTime() + OVERLAP_SECONDS * 1000),
    })
    if (row === null) refuseEndpoint(endpointId)
    return c.json(await toWireEndpointWithSecret(deps.pepper, row), 200)
  })
}
