import { createRoute } from '@hono/zod-openapi'
import type { Deps } from '../deps.ts'
import { KEY_ERRORS, createRouter, errorResponses, jsonResponse } from '../openapi.ts'
import { secretAnswer } from '../webhook-contract.ts'
import { webhookSecrets } from '../webhook-signature.ts'

const route = createRoute({
  method: 'get',
  path: '/v1/webhook-secret',
  tags: ['Webhooks'],
  summary: 'The secret that signs events to URLs given with single jobs',
  responses: {
    200: jsonResponse(secretAnswer, 'The secret and the public key of the organisation.'),
    ...errorResponses(...KEY_ERRORS),
  },
})

/** `GET /v1/webhook-secret`: one for the whole org, always the same. */
export function webhookSecretGet(deps: Deps) {
  return createRouter().openapi(route, async (c) => {
    const { orgId } = c.get('principal')
    const { secret, publicKey } = await webhookSecrets(deps.pepper, { id: orgId, version: 1 })
    return c.json({ secret, public_key: publicKey }, 200)
  })
}
