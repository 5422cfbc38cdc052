import type { OpenAPIHono } from '@hono/zod-openapi'
import { bodyLimit } from 'hono/body-limit'
import { createMiddleware } from 'hono/factory'
import { authenticate } from './auth.ts'
import type { Scope } from './api-key.ts'
import { BILLING_PATHS, billingRoutes } from './billing-routes.ts'
import type { Deps, RequestState } from './deps.ts'
import { ApiError, createOnError } from './errors.ts'
import { limitRate } from './limits.ts'
import { scopeOf } from './metrics.ts'
import { observe } from './observe.ts'
import { createRouter } from './openapi.ts'
import { PAYMENT_PATHS, paymentRoutes } from './payment-routes.ts'
import { WEBHOOK_PATHS, keylessRoutes, resultRoutes, webhookRoutes } from './result-routes.ts'
import { healthGet } from './routes/health.get.ts'
import { jobsCancel } from './routes/jobs.cancel.ts'
import { jobsCreate } from './routes/jobs.create.ts'
import { jobsGet } from './routes/jobs.get.ts'
import { jobsList } from './routes/jobs.list.ts'
import { modelsGet } from './routes/models.get.ts'
import { modelsList } from './routes/models.list.ts'
import { openapiGet } from './routes/openapi.get.ts'
import { EDITS_PATH, openaiEdits } from './routes/openai.edits.ts'
import { openaiImages } from './routes/openai.images.ts'
import { statusGet } from './routes/status.get.ts'
import { stripeWebhook } from './routes/stripe.webhook.ts'
import { zaiImages } from './routes/zai.images.ts'

/** A prompt and its settings are a few kilobytes. */
const MAX_BODY_BYTES = 1_048_576
/** A job's body may hold pictures: decoded and as text they are in memory at once, of which a Worker has 128 MB. */
const MAX_JOB_BODY_BYTES = 16_777_216
const JOBS_PATH = '/v1/jobs'
const ZAI_BASES = ['/api/paas/v4', '/paas/v4'] as const
/** OpenAI's clients ask for models under whatever base they were given. */
const MODEL_BASES = ['/v1', ...ZAI_BASES] as const

/**
 * Composes the gateway: request id and measures, size limit, then public routes, then who calls, how often, and what it
 * may do. The same app runs on Workers and on Node.
 *
 * @param options.isBuiltPerRequest prepares less for matching, as the app serves one request alone
 */
export function createApp(
  deps: Deps,
  options: { isBuiltPerRequest?: boolean } = {},
): OpenAPIHono<RequestState> {
  const app = createRouter(options)
  app.onError(
    createOnError(deps.log, (error) =>
      deps.metrics?.refusal({ reason: error.kind, scope: scopeOf(error) }),
    ),
  )
  app.notFound(() => {
    throw new ApiError('not_found')
  })
  app.use(observe(deps))
  app.use(async (c, next) => {
    // No id of ours holds it, and the database cannot.
    if (c.req.path.includes('\0') || c.req.path.includes('%00')) throw new ApiError('not_found')
    await next()
  })
  const limitBody = limitBodyTo(MAX_BODY_BYTES)
  // These two have limits of their own, behind the key.
  const isOwn = (path: string) => path === EDITS_PATH || path === JOBS_PATH
  app.use((c, next) => (isOwn(c.req.path) ? next() : limitBody(c, next)))
  app.route('/', healthGet(deps))
  app.route('/', statusGet(deps))
  app.route('/', openapiGet(app))
  app.route('/', keylessRoutes(deps))
  app.route('/', stripeWebhook(deps))

  guard(app, deps, 'generate', [
    '/v1/images/*',
    ...ZAI_BASES.flatMap((base) => [`${base}/images/*`, `${base}/async/*`]),
  ])
  guard(app, deps, 'read', [
    // The pattern covers the list itself; a second one would count its calls twice.
    ...MODEL_BASES.map((base) => `${base}/models/*`),
    ...BILLING_PATHS,
    ...ZAI_BASES.map((base) => `${base}/async-result/*`),
  ])
  guard(app, deps, 'webhooks', WEBHOOK_PATHS)
  guard(app, deps, 'billing', PAYMENT_PATHS)
  guardJobs(app, deps)
  app.use(JOBS_PATH, holdPlace(deps), limitBodyTo(MAX_JOB_BODY_BYTES))
  app.route('/', jobsCreate(deps))
  app.route('/', jobsList(deps))
  app.route('/', jobsGet(deps))
  app.route('/', jobsCancel(deps))
  app.route('/', resultRoutes(deps))
  app.route('/', webhookRoutes(deps))
  app.route('/', billingRoutes(deps))
  app.route('/', paymentRoutes(deps))
  for (const base of MODEL_BASES) {
    app.route(base, modelsList(deps)).route(base, modelsGet(deps))
  }
  app.route('/', openaiImages(deps))
  app.route('/', openaiEdits(deps))
  for (const base of ZAI_BASES) app.route(base, zaiImages(deps))
  return app
}

function limitBodyTo(maxSize: number) {
  return bodyLimit({
    maxSize,
    onError: () => {
      throw new ApiError('payload_too_large', {
        message: `The body is larger than ${maxSize} bytes.`,
        // The rest of the body is not read, so the connection cannot carry another call.
        headers: { connection: 'close' },
      })
    },
  })
}

/** A large body, or one of unknown size, is taken in only while there is memory for it. */
function holdPlace(deps: Deps) {
  return createMiddleware<RequestState>(async (c, next) => {
    const length = c.req.header('content-length') ?? (c.req.method === 'POST' ? 'unknown' : '0')
    if (Number(length) <= MAX_BODY_BYTES) return next()
    await deps.uploads.hold(c.get('principal').orgId, next)
  })
}

function guard(app: OpenAPIHono<RequestState>, deps: Deps, scope: Scope, paths: string[]): void {
  for (const path of paths) app.use(path, authenticate(deps, scope), limitRate(deps))
}

/** Looking at jobs needs `read`, and so do new URLs, which every look gives; making and changing one `generate`. */
function guardJobs(app: OpenAPIHono<RequestState>, deps: Deps): void {
  const generate = authenticate(deps, 'generate')
  const read = authenticate(deps, 'read')
  // The pattern covers `/v1/jobs` itself; a second one would count its calls twice.
  const path = '/v1/jobs/*'
  const isLook = (method: string, url: string) => method === 'GET' || url.endsWith('/sign')
  app.use(path, (c, next) => (isLook(c.req.method, c.req.path) ? read(c, next) : generate(c, next)))
  app.use(path, limitRate(deps))
}
