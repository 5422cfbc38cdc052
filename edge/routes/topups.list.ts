import { createRoute, z } from '@hono/zod-openapi'
import { listTopups } from '../../billing/stripe/topup.ts'
import { toWireTopup, topupPage } from '../billing-contract.ts'
import type { Deps } from '../deps.ts'
import { KEY_ERRORS, createRouter, errorResponses, jsonResponse } from '../openapi.ts'
import { requireStripe } from '../stripe.ts'

const route = createRoute({
  method: 'get',
  path: '/v1/topups',
  tags: ['Billing'],
  summary: 'Payments ahead of the organisation, newest first',
  request: {
    query: z.strictObject({
      before: z
        .string()
        .regex(/^top_\w{1,60}$/)
        .optional(),
      limit: z.coerce.number().int().min(1).max(100).default(20),
    }),
  },
  responses: {
    200: jsonResponse(topupPage, 'A page; pass `next_before` as `before` for the next one.'),
    ...errorResponses(...KEY_ERRORS, 'invalid_request', 'not_configured'),
  },
})

/** `GET /v1/topups` */
export function topupsList(deps: Deps) {
  return createRouter().openapi(route, async (c) => {
    const { before, limit } = c.req.valid('query')
    const rows = await listTopups(requireStripe(deps).db, {
      orgId: c.get('principal').orgId,
      limit: limit + 1,
      ...(before === undefined ? {} : { before }),
    })
    const page = rows.slice(0, limit)
    const hasMore = rows.length > limit
    return c.json(
      {
        object: 'list' as const,
        data: page.map(toWireTopup),
        has_more: hasMore,
        next_before: hasMore ? (page.at(-1)?.id ?? null) : null,
      },
      200,
    )
  })
}
