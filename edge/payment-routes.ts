import type { Deps } from './deps.ts'
import { createRouter } from './openapi.ts'
import { autoTopupGet } from './routes/auto-topup.get.ts'
import { autoTopupSet } from './routes/auto-topup.set.ts'
import { billingPortal } from './routes/billing.portal.ts'
import { topupsCreate } from './routes/topups.create.ts'
import { topupsList } from './routes/topups.list.ts'

/** Paths behind the scope `billing`. */
export const PAYMENT_PATHS = ['/v1/topups/*', '/v1/auto-topup', '/v1/billing/*']

/** Payments, and the way to Stripe's own pages; behind a key with the scope `billing`. */
export function paymentRoutes(deps: Deps) {
  return createRouter()
    .route('/', topupsCreate(deps))
    .route('/', topupsList(deps))
    .route('/', autoTopupGet(deps))
    .route('/', autoTopupSet(deps))
    .route('/', billingPortal(deps))
}
