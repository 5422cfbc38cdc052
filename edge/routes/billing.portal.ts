import { createRoute } from '@hono/zod-openapi'
import { openPortal } from '../../billing/stripe/subscription.ts'
import { portalAnswer, portalBody } from '../billing-contract.ts'
import type { Deps } from '../deps.ts'
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
  path: '/v1/billing/portal',
  tags: ['Billing'],
  summary: 'A short-lived address of the page with invoices and payment methods',
  request: { body: jsonBody(portalBody) },
  responses: {
    201: jsonResponse(portalAnswer, 'Whoever opens it acts for the organisation.'),
    ...errorResponses(...KEY_ERRORS, ...BODY_ERRORS, 'not_configured'),
  },
})

/** `POST /v1/billing/portal` */
export function billingPortal(deps: Deps) {
  return createRouter().openapi(route, async (c) => {
    const { return_url: returnUrl } = c.req.valid('json')
    const url = await askStripe(
      deps,
      openPortal(requireStripe(deps), {
        orgId: c.get('principal').orgId,
        returnUrl: returnUrl ?? `${deps.publicUrl}/`,
      }),
    )
    return c.json({ url }, 201)
  })
}
