import { createRoute } from '@hono/zod-openapi'
import { MODEL } from '../catalogue.ts'
import { checkOrder } from '../check-order.ts'
import { modelList } from '../contract.ts'
import type { Deps } from '../deps.ts'
import { ApiError } from '../errors.ts'
import { KEY_ERRORS, createRouter, errorResponses, jsonResponse } from '../openapi.ts'
import { toModelInfo } from '../wire/openai.ts'

const route = createRoute({
  method: 'get',
  path: '/models',
  tags: ['Models'],
  summary: 'Models with their sizes and price',
  responses: { 200: jsonResponse(modelList, 'The models.'), ...errorResponses(...KEY_ERRORS) },
})

/** `GET .../models`, for the base of each dialect. */
export function modelsList(deps: Deps) {
  return createRouter().openapi(route, async (c) => {
    // In its default size, for this organisation.
    const offer = await checkOrder(deps, c.get('principal').orgId, { model: MODEL })
    const data = offer instanceof ApiError ? [] : [toModelInfo(offer)]
    return c.json({ object: 'list' as const, data }, 200)
  })
}
