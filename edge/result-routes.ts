import type { Deps } from './deps.ts'
import { createRouter } from './openapi.ts'
import { filesGet } from './routes/files.get.ts'
import { jwksGet } from './routes/jwks.get.ts'
import { internalPoke } from './routes/internal.poke.ts'
import { jobsDelete } from './routes/jobs.delete.ts'
import { jobsSign } from './routes/jobs.sign.ts'
import { webhookDeliveriesGet } from './routes/webhook-deliveries.get.ts'
import { webhookDeliveriesList } from './routes/webhook-deliveries.list.ts'
import { webhookDeliveriesReplay } from './routes/webhook-deliveries.replay.ts'
import { webhookEndpointsCreate } from './routes/webhook-endpoints.create.ts'
import { webhookEndpointsDelete } from './routes/webhook-endpoints.delete.ts'
import { webhookEndpointsGet } from './routes/webhook-endpoints.get.ts'
import { webhookEndpointsList } from './routes/webhook-endpoints.list.ts'
import { webhookEndpointsRotate } from './routes/webhook-endpoints.rotate.ts'
import { webhookEndpointsUpdate } from './routes/webhook-endpoints.update.ts'
import { webhookSecretGet } from './routes/webhook-secret.get.ts'

/** Paths behind the scope `webhooks`. */
export const WEBHOOK_PATHS = [
  '/v1/webhook-endpoints/*',
  '/v1/webhook-deliveries/*',
  '/v1/webhook-secret',
]

/** Calls without a key: public ones, and those that a signature or the internal secret admits. */
export function keylessRoutes(deps: Deps) {
  return createRouter()
    .route('/', filesGet(deps))
    .route('/', internalPoke(deps))
    .route('/', jwksGet(deps))
}

/** Calls about finished jobs; behind a key. */
export function resultRoutes(deps: Deps) {
  return createRouter().route('/', jobsSign(deps)).route('/', jobsDelete(deps))
}

/** Endpoints, their secrets and the delivery log; behind a key with the scope `webhooks`. */
export function webhookRoutes(deps: Deps) {
  return createRouter()
    .route('/', webhookEndpointsCreate(deps))
    .route('/', webhookEndpointsList(deps))
    .route('/', webhookEndpointsGet(deps))
    .route('/', webhookEndpointsUpdate(deps))
    .route('/', webhookEndpointsDelete(deps))
    .route('/', webhookEndpointsRotate(deps))
    .route('/', webhookDeliveriesList(deps))
    .route('/', webhookDeliveriesGet(deps))
    .route('/', webhookDeliveriesReplay(deps))
    .route('/', webhookSecretGet(deps))
}
