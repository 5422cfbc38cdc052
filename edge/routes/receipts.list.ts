import { createRoute, z } from '@hono/zod-openapi'
import { listReceipts } from '../../billing/receipt.ts'
import type { Deps } from '../deps.ts'
import { KEY_ERRORS, createRouter, errorResponses, jsonResponse } from '../openapi.ts'
import { createReceiptSigner } from '../receipt-signature.ts'
import { SPAN_RULE, isSpan, pageLimit, receiptList, spanQuery } from '../usage-contract.ts'

const route = createRoute({
  method: 'get',
  path: '/v1/receipts',
  tags: ['Billing'],
  summary: 'Signed receipts of the charged pictures of a span, oldest first',
  request: {
    query: z
      .strictObject({
        ...spanQuery,
        after: z
          .string()
          .regex(/^use_\w{1,60}$/)
          .optional(),
        limit: pageLimit,
      })
      .refine(isSpan, SPAN_RULE),
  },
  responses: {
    200: jsonResponse(receiptList, 'A page; pass `next_after` as `after` for the next one.'),
    ...errorResponses(...KEY_ERRORS, 'missing_field', 'invalid_request'),
  },
})

/** `GET /v1/receipts` */
export function receiptsList(deps: Deps) {
  return createRouter().openapi(route, async (c) => {
    const { from, to, after, limit } = c.req.valid('query')
    const { orgId } = c.get('principal')
    const rows = await listReceipts(
      deps.db,
      { orgId, from: new Date(from), to: new Date(to) },
      { limit: limit + 1, ...(after === undefined ? {} : { after }) },
    )
    const page = rows.slice(0, limit)
    const hasMore = rows.length > limit
    const signer = await createReceiptSigner(deps.pepper, deps.publicUrl)
    const data = await Promise.all(page.map(({ receipt }) => signer.sign(receipt)))
    const nextAfter = hasMore ? (page.at(-1)?.usageId ?? null) : null
    return c.json({ object: 'list' as const, data, has_more: hasMore, next_after: nextAfter }, 200)
  })
}
