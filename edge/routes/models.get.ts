import { createRoute, z } from '@hono/zod-openapi'
import { modelInfo } from '../contract.ts'
import type { Deps } from '../deps.ts'
import { ApiError } from '../errors.ts'
import { KEY_ERRORS, createRouter, errorResponses, jsonResponse } from '../openapi.ts'
import { toModelInfo } from '../wire/openai.ts'

const route = createRoute({
  method: 'get',
  path: '/models/{model}',
  tags: ['Models'],
  summary: 'One model with its sizes and price',
  request: { params: z.object({ model: z.string().openapi({ example: 'glm-image' }) }) },
  responses: {
    200: jsonResponse(modelInfo, 'The model.'),
    ...errorResponses(...KEY_ERRORS, 'not_found'),
  },
})

/** `GET .../models/{model}`, for the base of each dialect. */
export function modelsGet(deps: Deps) {
  return createRouter().openapi(route, async (c) => {
    const entry = await deps.catalogue.find(deps.db, c.req.valid('param').model)
    if (!entry) {
      throw new ApiError('not_found', { message: 'There is no such model.', param: 'model' })
    }
    return c.json(toModelInfo(entry), 200)
  })
}
