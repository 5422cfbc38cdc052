import type { Context } from 'hono'
import { createMiddleware } from 'hono/factory'
import { matchedRoutes } from 'hono/route'
import type { Deps, RequestState } from './deps.ts'
import { requestIdOf } from './errors.ts'
import { passTraceOn } from './tracing.ts'

/** Monitors and workers ask these every few seconds; their spans would bury all others. */
const NOT_TRACED = /^\/(health|internal)\/|^\/v1\/status$/

/**
 * Puts the request's id into the answer and a span around the work, which goes on with the caller's trace; counts and
 * times the call. What the handlers hand on is in the variable `origin`.
 */
export function observe({ metrics, startSpan = passTraceOn }: Pick<Deps, 'metrics' | 'startSpan'>) {
  return createMiddleware<RequestState>(async (c, next) => {
    const { method, path } = c.req
    const requestId = requestIdOf(c)
    const startedAt = performance.now()
    const span = NOT_TRACED.test(path)
      ? null
      : startSpan(method, { kind: 'server', parent: c.req.header('traceparent') ?? null })
    c.set('origin', { requestId, traceparent: span?.traceparent })
    await (span === null ? next() : span.run(next))
    c.res.headers.set('x-request-id', requestId)
    const { status } = c.res
    if (span === null && metrics === undefined) return
    const route = routeOf(c)
    metrics?.request({ method, route, status, seconds: (performance.now() - startedAt) / 1_000 })
    span?.rename(`${method} ${route}`)
    span?.set({
      'http.request.method': method,
      'http.route': route,
      'http.response.status_code': status,
      'glyphpress.request_id': requestId,
    })
    span?.end(status >= 500 ? `status ${status}` : undefined)
  })
}

/** The path of the route as the document has it, so that there are as many as routes; middleware is for all methods. */
function routeOf(c: Context): string {
  const route = matchedRoutes(c).findLast(({ method }) => method !== 'ALL')
  return route?.path.replaceAll(/:(\w+)/g, '{$1}') ?? 'none'
}
