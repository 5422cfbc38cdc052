import { createRoute } from '@hono/zod-openapi'
import { readBalance } from '../../billing/balance.ts'
import { formatUsd } from '../../billing/money.ts'
import { balanceAnswer } from '../balance-contract.ts'
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
      credit_next: usd(level.creditNextMicros),
      available: usd(level.availableMicros),
      held: formatUsd(level.heldMicros),
      spent: formatUsd(level.spentMicros),
      day_limit: usd(level.day.limitMicros),
      day_limit_next: usd(level.day.limitNextMicros),
      day_held: formatUsd(level.day.heldMicros),
      day_spent: formatUsd(level.day.spentMicros),
      day_resets_at: level.day.resetsAt?.toISOString() ?? null,
      month_limit: usd(level.month.limitMicros),
      month_limit_next: usd(level.month.limitNextMicros),
      month_held: formatUsd(level.month.heldMicros),
      month_spent: formatUsd(level.month.spentMicros),
      month_resets_at: level.month.resetsAt?.toISOString() ?? null,
      inflight: level.inflight,
      max_inflight: level.maxInflight,
      soft_thresholds_bp: level.softBp,
    }))
    return c.json({ currency: 'USD' as const, levels }, 200)
  })
}
