import { createRoute } from '@hono/zod-openapi'
import { updateEndpoint } from '../../db/webhooks.ts'
import type { Deps } from '../deps.ts'
import { KEY_ERRORS, createRouter, errorResponses, jsonBody, jsonResponse } from '../openapi.ts'
import {
  endpointIdParam,
  refuseEndpoint,
  requireWebhookUrl,
  toWireEndpoint,
  updateEndpointBody,
  wireEndpoint,
} from '../webhook-contract.ts'

const route = createRoute({
  method: 'patch',
  path: '/v1/webhook-endpoints/{endpoint_id}',
  tags: ['Webhooks'],
  summary: 'Change an endpoint, switch it off or on again',
  request: { params: endpointIdParam, body: jsonBody(updateEndpointBody) },
  responses: {
    200: jsonResponse(wireEndpoint, 'The endpoint as it is now.'),
    ...errorResponses(
      ...KEY_ERRORS,
      'not_found',
      'invalid_request',
      'missing_field',
      'invalid_json',
      'payload_too_large',
      'unsupported_media_type',
    ),
  },
})

/** `PATCH /v1/webhook-endpoints/{endpoint_id}`: what is not named stays. Safe to repeat. */
export function webhookEndpointsUpdate(deps: Deps) {
  return createRouter().openapi(route, async (c) => {
    const { endpoint_id: endpointId } = c.req.valid('param')
    const body = c.req.valid('json')
    const row = await updateEndpoint(deps.db, {
      orgId: c.get('principal').orgId,
      endpointId,
      ...(body.url === undefined ? {} : { url: requireWebhookUrl(body.url, deps) }),
      ...(body.description === undefined ? {} : { description: body.description }),
      ...(body.event_types === undefined ? {} : { eventTypes: body.event_types }),
      ...(body.enabled === undefined ? {} : { enabled: body.enabled }),
    })
    if (row === null) refuseEndpoint(endpointId)
    return c.json(await toWireEndpoint(deps.pepper, row), 200)
  })
}
