import { createRoute, z } from '@hono/zod-openapi'
import type { Deps } from '../deps.ts'
import { createRouter, errorResponses, jsonResponse } from '../openapi.ts'

const answer = z.strictObject({ status: z.literal('ok') }).openapi('Health')

const live = createRoute({
  method: 'get',
  path: '/health/live',
  tags: ['Service'],
  summary: 'Whether the process answers',
  security: [],
  responses: { 200: jsonResponse(answer, 'It does.') },
})
const ready = createRoute({
  method: 'get',
  path: '/health/ready',
  tags: ['Service'],
  summary: 'Whether the database answers too',
  security: [],
  responses: {
    200: jsonResponse(answer, 'It does.'),
    ...errorResponses('unavailable', 'internal'),
  },
})

/** `GET /health/live` and `GET /health/ready`, without a key. */
export function healthGet(deps: Deps) {
  return createRouter()
    .openapi(live, (c) => c.json({ status: 'ok' as const }, 200))
    .openapi(ready, async (c) => {
      await deps.db.sql`select 1`
      return c.json({ status: 'ok' as const }, 200)
    })
}
