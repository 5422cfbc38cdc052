import { createRoute } from '@hono/zod-openapi'
import { MAX_ENDPOINTS, insertEndpoint } from '../../db/webhooks.ts'
import type { Deps } from '../deps.ts'
import { ApiError } from '../errors.ts'
import { KEY_ERRORS, createRouter, errorResponses, jsonBody, jsonResponse } from '../openapi.ts'
import {
  createEndpointBody,
  requireWebhookUrl,
  toWireEndpointWithSecret,
  wireEndpointWithSecret,
} from '../webhook-contract.ts'

const route = createRoute({
  method: 'post',
  path: '/v1/webhook-endpoints',
  tags: ['Webhooks'],
  summary: 'Register where events go; the answer alone shows the secret',
  request: { body: jsonBody(createEndpointBody) },
  responses: {
    201: jsonResponse(wireEndpointWithSecret, 'The endpoint with its secret.'),
    ...errorResponses(
      ...KEY_ERRORS,
      'invalid_request',
      'missing_field',
      'invalid_json',
      'payload_too_large',
      'unsupported_media_type',
    ),
  },
})

/** `POST /v1/webhook-endpoints`. Each call makes one. */
export function webhookEndpointsCreate(deps: Deps) {
  return createRouter().openapi(route, async (c) => {
    const body = c.req.valid('json')
    const endpoint = await insertEndpoint(deps.db, {
      orgId: c.get('principal').orgId,
      url: requireWebhookUrl(body.url, deps),
      description: body.description,
      eventTypes: body.event_types,
    })
    if (endpoint === null) {
      throw new ApiError('invalid_request', {
        message: `There are ${MAX_ENDPOINTS} webhook endpoints already, which is the most.`,
      })
    }
    return c.json(await toWireEndpointWithSecret(deps.pepper, endpoint), 201)
  })
}
