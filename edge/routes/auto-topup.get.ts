import { createRoute } from '@hono/zod-openapi'
import { formatUsd } from '../../billing/money.ts'
import { readAutoTopup } from '../../billing/stripe/auto-topup.ts'
import { autoTopupAnswer } from '../billing-contract.ts'
import type { Deps } from '../deps.ts'
import { KEY_ERRORS, createRouter, errorResponses, jsonResponse } from '../openapi.ts'
import { requireStripe } from '../stripe.ts'

const route = createRoute({
  method: 'get',
  path: '/v1/auto-topup',
  tags: ['Billing'],
  summary: 'Whether credit is bought automatically when it runs low',
  responses: {
    200: jsonResponse(autoTopupAnswer, 'Amounts in US dollars.'),
    ...errorResponses(...KEY_ERRORS, 'not_configured'),
  },
})

/** `GET /v1/auto-topup` */
export function autoTopupGet(deps: Deps) {
  return createRouter().openapi(route, async (c) => {
    const setting = await readAutoTopup(requireStripe(deps).db, c.get('principal').orgId)
    return c.json(
      {
        enabled: setting !== null,
        below: setting === null ? null : formatUsd(setting.belowMicros),
        amount: setting === null ? null : formatUsd(setting.amountMicros),
      },
      200,
    )
  })
}
