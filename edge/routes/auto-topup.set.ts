import { createRoute } from '@hono/zod-openapi'
import { formatUsd } from '../../billing/money.ts'
import { setAutoTopup } from '../../billing/stripe/auto-topup.ts'
import type { AutoTopup } from '../../billing/stripe/auto-topup.ts'
import { autoTopupAnswer, autoTopupBody, toMicros } from '../billing-contract.ts'
import type { Deps } from '../deps.ts'
import { ApiError } from '../errors.ts'
import {
  BODY_ERRORS,
  KEY_ERRORS,
  createRouter,
  errorResponses,
  jsonBody,
  jsonResponse,
} from '../openapi.ts'
import { requireStripe } from '../stripe.ts'

const route = createRoute({
  method: 'put',
  path: '/v1/auto-topup',
  tags: ['Billing'],
  summary: 'Buy credit automatically, with the card of an earlier payment, when it runs low',
  request: { body: jsonBody(autoTopupBody) },
  responses: {
    200: jsonResponse(autoTopupAnswer, 'The setting as it is now.'),
    ...errorResponses(...KEY_ERRORS, ...BODY_ERRORS, 'not_configured'),
  },
})

/** `PUT /v1/auto-topup`. Safe to repeat. */
export function autoTopupSet(deps: Deps) {
  return createRouter().openapi(route, async (c) => {
    const setting = toSetting(c.req.valid('json'))
    if (!(await setAutoTopup(requireStripe(deps).db, c.get('principal').orgId, setting))) {
      throw new ApiError('invalid_request', { message: 'Only prepaid organisations buy credit.' })
    }
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

function toSetting(body: {
  enabled: boolean
  below_usd?: string | number | undefined
  amount_usd?: string | number | undefined
}): AutoTopup | null {
  if (!body.enabled) return null
  const missing = body.below_usd === undefined ? 'below_usd' : 'amount_usd'
  if (body.below_usd === undefined || body.amount_usd === undefined) {
    throw new ApiError('missing_field', { message: `${missing} is missing.`, param: missing })
  }
  return { belowMicros: toMicros(body.below_usd), amountMicros: toMicros(body.amount_usd) }
}
