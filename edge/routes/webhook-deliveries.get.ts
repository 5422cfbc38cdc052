import { createRoute } from '@hono/zod-openapi'
import { findDelivery } from '../../db/webhook-log.ts'
import type { Deps } from '../deps.ts'
import { KEY_ERRORS, createRouter, errorResponses, jsonResponse } from '../openapi.ts'
import {
  deliveryIdParam,
  refuseDelivery,
  toWireDelivery,
  wireDelivery,
} from '../webhook-contract.ts'

const route = createRoute({
  method: 'get',
  path: '/v1/webhook-deliveries/{delivery_id}',
  tags: ['Webhooks'],
  summary: 'One delivery with every attempt',
  request: { params: deliveryIdParam },
  responses: {
    200: jsonResponse(wireDelivery, 'The delivery.'),
    ...errorResponses(...KEY_ERRORS, 'not_found'),
  },
})

/** `GET /v1/webhook-deliveries/{delivery_id}`: another org's delivery is not there. */
export function webhookDeliveriesGet(deps: Deps) {
  return createRouter().openapi(route, async (c) => {
    const { delivery_id: deliveryId } = c.req.valid('param')
    const { orgId } = c.get('principal')
    const found = await findDelivery(deps.db, { orgId, deliveryId })
    if (found === null) refuseDelivery(deliveryId)
    return c.json(toWireDelivery(found), 200)
  })
}
