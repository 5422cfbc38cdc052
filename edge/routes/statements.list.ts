import { createRoute, z } from '@hono/zod-openapi'
import { firstMonth, listClosed } from '../../billing/statement/close.ts'
import { monthOf, parseMonth } from '../../billing/statement/month.ts'
import type { Deps } from '../deps.ts'
import { KEY_ERRORS, createRouter, errorResponses, jsonResponse } from '../openapi.ts'
import { statementList } from '../statement-contract.ts'

/** Ten years. */
const MAX_MONTHS = 120

const route = createRoute({
  method: 'get',
  path: '/v1/statements',
  tags: ['Billing'],
  summary: 'The months that have a statement, newest first',
  request: {
    query: z.strictObject({
      team: z
        .string()
        .max(64)
        .optional()
        .openapi({ description: 'A team; absent: the whole org.' }),
    }),
  },
  responses: {
    200: jsonResponse(
      statementList,
      'Months since the org exists: `current` is under way, `open` can still be closed.',
    ),
    ...errorResponses(...KEY_ERRORS, 'invalid_request'),
  },
})

/** `GET /v1/statements` */
export function statementsList(deps: Deps) {
  return createRouter().openapi(route, async (c) => {
    const { orgId } = c.get('principal')
    const teamId = c.req.valid('query').team ?? null
    const closed = await listClosed(deps.db, { orgId, teamId })
    const byMonth = new Map(closed.map((statement) => [statement.month, statement]))
    const current = monthOf(deps.now())
    const first = (await firstMonth(deps.db, orgId)) ?? current.month
    const data = monthsBack(current.month, first).map((month) => {
      const known = byMonth.get(month)
      const state = month === current.month ? ('current' as const) : ('open' as const)
      return {
        month,
        state: known ? ('closed' as const) : state,
        sha256: known?.sha256 ?? null,
        closed_at: known?.closedAt.toISOString() ?? null,
      }
    })
    return c.json({ object: 'list' as const, data }, 200)
  })
}

function monthsBack(last: string, first: string): string[] {
  const months: string[] = []
  for (let month = parseMonth(last); month && months.length < MAX_MONTHS;) {
    months.push(month.month)
    if (month.month <= first) break
    month = monthOf(new Date(month.start.getTime() - 1))
  }
  return months
}
