import { createRoute } from '@hono/zod-openapi'
import { formatUsd } from '../../billing/money.ts'
import { startTopup } from '../../billing/stripe/topup.ts'
import { createTopupBody, toMicros, topupStarted } from '../billing-contract.ts'
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
import { askStripe, requireStripe } from '../stripe.ts'

const route = createRoute({
  method: 'post',
  path: '/v1/topups',
  tags: ['Billing'],
  summary: 'Buy prepaid credit; the answer is the address of a payment page',
  request: { body: jsonBody(createTopupBody) },
  responses: {
    201: jsonResponse(topupStarted, 'Open `checkout_url`; credit is there once the payment is.'),
    ...errorResponses(...KEY_ERRORS, ...BODY_ERRORS, 'not_configured'),
  },
})

/** `POST /v1/topups`. Each call opens a page; nothing is charged by it. */
export function topupsCreate(deps: Deps) {
  return createRouter().openapi(route, async (c) => {
    const body = c.req.valid('json')
    const amountMicros = toMicros(body.amount_usd)
    const started = await askStripe(
      deps,
      startTopup(requireStripe(deps), {
        orgId: c.get('principal').orgId,
        amountMicros,
        successUrl: body.success_url ?? `${deps.publicUrl}/`,
        cancelUrl: body.cancel_url ?? `${deps.publicUrl}/`,
      }),
    )
    if (!started.ok) {
      throw new ApiError('invalid_request', { message: 'Only prepaid organisations buy credit.' })
    }
    return c.json(
      {
        id: started.topupId,
        object: 'topup' as const,
        amount: formatUsd(amountMicros),
        currency: 'USD' as const,
        checkout_url: started.checkoutUrl,
        expires_at: started.expiresAt.toISOString(),
      },
      201,
    )
  })
}
