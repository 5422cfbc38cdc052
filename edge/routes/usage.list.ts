import { createRoute, z } from '@hono/zod-openapi'
import { formatUsd } from '../../billing/money.ts'
import { USAGE_GROUPS, reportUsage } from '../../billing/usage-report.ts'
import type { UsageDimension } from '../../billing/usage-report.ts'
import type { Deps } from '../deps.ts'
import { ApiError } from '../errors.ts'
import { KEY_ERRORS, createRouter, errorResponses, jsonResponse } from '../openapi.ts'
import { SPAN_RULE, isSpan, spanQuery, usageAnswer } from '../usage-contract.ts'

/** An answer of a few megabytes at most. */
const MAX_ROWS = 10_000

const isDimension = (name: string): name is UsageDimension =>
  USAGE_GROUPS.some((group) => group === name)

const route = createRoute({
  method: 'get',
  path: '/v1/usage',
  tags: ['Billing'],
  summary: 'Charged pictures of a span, by team, key, SKU, size and time',
  request: {
    query: z
      .strictObject({
        ...spanQuery,
        group_by: z
          .string()
          .refine(
            (list) => list.split(',').every(isDimension),
            `must be a list of ${USAGE_GROUPS.join(', ')}, separated by commas`,
          )
          .optional()
          .openapi({ example: 'team,sku' }),
        bucket: z.enum(['hour', 'day', 'month']).optional(),
      })
      .refine(isSpan, SPAN_RULE),
  },
  responses: {
    200: jsonResponse(usageAnswer, 'Sums; groups without usage are left out.'),
    ...errorResponses(...KEY_ERRORS, 'missing_field', 'invalid_request'),
  },
})

/** `GET /v1/usage` */
export function usageList(deps: Deps) {
  return createRouter().openapi(route, async (c) => {
    const { from, to, group_by: groupBy, bucket } = c.req.valid('query')
    const span = { from: new Date(from), to: new Date(to) }
    const rows = await reportUsage(
      deps.db,
      { orgId: c.get('principal').orgId, ...span },
      {
        groups: (groupBy ?? '').split(',').filter(isDimension),
        bucket: bucket ?? null,
        limit: MAX_ROWS + 1,
      },
    )
    if (rows.length > MAX_ROWS) {
      throw new ApiError('invalid_request', {
        message: `group_by: gives more than ${MAX_ROWS} groups in this span; ask for a shorter span or larger buckets.`,
        param: 'group_by',
      })
    }
    const data = rows.map((row) => ({
      bucket: row.bucket?.toISOString() ?? null,
      team_id: row.teamId,
      key_id: row.keyId,
      sku_id: row.skuId,
      size: row.size,
      images: Number(row.images),
      list: formatUsd(row.listMicros),
      discount: formatUsd(row.discountMicros),
      net: formatUsd(row.netMicros),
      credit: formatUsd(row.creditMicros),
    }))
    const ends = { from: span.from.toISOString(), to: span.to.toISOString() }
    return c.json({ object: 'usage' as const, currency: 'USD' as const, ...ends, data }, 200)
  })
}
