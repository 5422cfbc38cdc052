import { applyDueEvents, receiveEvent } from '../../billing/stripe/events.ts'
import type { Deps } from '../deps.ts'
import { ApiError } from '../errors.ts'
import { createRouter } from '../openapi.ts'
import { requireStripe } from '../stripe.ts'

/** Events applied right after one came; the sweep does what is left. */
const APPLY_LIMIT = 10

/**
 * `POST /stripe/webhook`: stores what Stripe sends, then answers; applying goes on in the background. The body is
 * read once, as the bytes that were signed. Not in the document, as no customer can call it. Safe to repeat.
 */
export function stripeWebhook(deps: Deps) {
  const router = createRouter()
  router.post('/stripe/webhook', async (c) => {
    const stripe = requireStripe(deps)
    const signature = c.req.header('stripe-signature')
    if (signature === undefined) throw new ApiError('bad_signature')
    const received = await receiveEvent(stripe, { rawBody: await c.req.text(), signature })
    if (received === 'bad_signature') throw new ApiError('bad_signature')
    if (received === 'stored') deps.background(applyDueEvents(stripe, { limit: APPLY_LIMIT }))
    return c.json({ received: true }, 200)
  })
  return router
}
