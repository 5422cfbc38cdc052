import { createRoute } from '@hono/zod-openapi'
import { MODEL } from '../catalogue.ts'
import { modelList } from '../contract.ts'
import type { Deps } from '../deps.ts'
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
    const entry = await deps.catalogue.find(deps.db, MODEL)
    return c.json({ object: 'list' as const, data: entry ? [toModelInfo(entry)] : [] }, 200)
  })
}
