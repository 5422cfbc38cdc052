import { createRoute } from '@hono/zod-openapi'
import { replayDelivery } from '../../db/webhook-log.ts'
import type { Deps } from '../deps.ts'
import { ApiError } from '../errors.ts'
import { KEY_ERRORS, createRouter, errorResponses, jsonResponse } from '../openapi.ts'
import {
  deliveryIdParam,
  refuseDelivery,
  toWireDelivery,
  wireDelivery,
} from '../webhook-contract.ts'

const route = createRoute({
  method: 'post',
  path: '/v1/webhook-deliveries/{delivery_id}/replay',
  tags: ['Webhooks'],
  summary: 'Send an event once more to where it went',
  request: { params: deliveryIdParam },
  responses: {
    202: jsonResponse(wireDelivery, 'The new delivery; the event keeps its id.'),
    ...errorResponses(...KEY_ERRORS, 'not_found', 'invalid_request'),
  },
})

const REFUSALS = {
  endpoint_disabled: 'its endpoint is disabled or deleted; enable it first',
  job_deleted: 'its job was deleted, and the URL with it',
} as const

/** `POST /v1/webhook-deliveries/{delivery_id}/replay`. Each call makes one delivery. */
export function webhookDeliveriesReplay(deps: Deps) {
  return createRouter().openapi(route, async (c) => {
    const { delivery_id: deliveryId } = c.req.valid('param')
    const replayed = await replayDelivery(deps.db, {
      orgId: c.get('principal').orgId,
      deliveryId,
      at: deps.now(),
    })
    if (replayed.ok) {
      deps.pokeSweep()
      return c.json(toWireDelivery(replayed.delivery), 202)
    }
    if (replayed.reason === 'not_found') refuseDelivery(deliveryId)
    throw new ApiError('invalid_request', {
      message: `delivery_id: ${REFUSALS[replayed.reason]}.`,
      param: 'delivery_id',
    })
  })
}
