import { createRoute } from '@hono/zod-openapi'
import { readBalance } from '../../billing/balance.ts'
import { formatUsd } from '../../billing/money.ts'
import { balanceAnswer } from '../contract.ts'
import type { Deps } from '../deps.ts'
import { KEY_ERRORS, createRouter, errorResponses, jsonResponse } from '../openapi.ts'

const route = createRoute({
  method: 'get',
  path: '/v1/balance',
  tags: ['Billing'],
  summary: 'Limits, holds and spending of key, team and organisation',
  responses: {
    200: jsonResponse(balanceAnswer, 'Amounts in US dollars.'),
    ...errorResponses(...KEY_ERRORS),
  },
})

/** `GET /v1/balance` */
export function balanceGet(deps: Deps) {
  return createRouter().openapi(route, async (c) => {
    const usd = (amount: bigint | null) => (amount === null ? null : formatUsd(amount))
    const levels = (await readBalance(deps.db, c.get('principal'))).map((level) => ({
      scope: level.scope,
      id: level.scopeId,
      credit: usd(level.creditMicros),
      available: usd(level.availableMicros),
      held: formatUsd(level.heldMicros),
      spent: formatUsd(level.spentMicros),
      month_limit: usd(level.monthLimitMicros),
      month_held: formatUsd(level.monthHeldMicros),
      month_spent: formatUsd(level.monthSpentMicros),
      month_resets_at: level.monthResetsAt?.toISOString() ?? null,
      inflight: level.inflight,
      max_inflight: level.maxInflight,
    }))
    return c.json({ currency: 'USD' as const, levels }, 200)
  })
}
