import { createRoute } from '@hono/zod-openapi'
import { formatUsd } from '../../billing/money.ts'
import { MODEL } from '../catalogue.ts'
import { checkOrder } from '../check-order.ts'
import { modelList } from '../contract.ts'
import type { Deps } from '../deps.ts'
import { ApiError } from '../errors.ts'
import { KEY_ERRORS, createRouter, errorResponses, jsonResponse } from '../openapi.ts'

/** The day on which the model was published, as Unix seconds. */
const MODEL_CREATED = Date.UTC(2026, 0, 14) / 1000

const route = createRoute({
  method: 'get',
  path: '/v1/models',
  tags: ['OpenAI dialect'],
  summary: 'Models with their sizes and price',
  responses: { 200: jsonResponse(modelList, 'The models.'), ...errorResponses(...KEY_ERRORS) },
})

/** `GET /v1/models`: sizes are those that the loaded checkpoint declares. */
export function modelsList(deps: Deps) {
  return createRouter().openapi(route, async (c) => {
    // In its default size, for this organisation.
    const offer = await checkOrder(deps, c.get('principal').orgId, { model: MODEL })
    if (offer instanceof ApiError) return c.json({ object: 'list' as const, data: [] }, 200)
    const { entry, price } = offer
    const data = [
      {
        id: entry.model,
        object: 'model' as const,
        created: MODEL_CREATED,
        owned_by: 'zai-org',
        sizes: {
          default: entry.size.default,
          recommended: [...entry.size.recommended],
          min_side: entry.size.minSide,
          max_side: entry.size.maxSide,
          multiple_of: entry.size.multipleOf,
          max_pixels: entry.size.maxPixels,
        },
        price_per_image: formatUsd(price.unitMicros),
        notice: entry.notice,
        weights_hash: entry.weightsHash,
      },
    ]
    return c.json({ object: 'list' as const, data }, 200)
  })
}
