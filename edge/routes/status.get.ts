import { createRoute, z } from '@hono/zod-openapi'
import type { Deps } from '../deps.ts'
import { createRouter } from '../openapi.ts'
import { COMPONENTS, FRESH_MS, judgeService } from '../service-status.ts'
import type { Component, ServiceStatus } from '../service-status.ts'
import { statusPage } from '../status-page.ts'

const component = z
  .strictObject({
    status: z.enum(['operational', 'degraded', 'outage', 'unknown']),
    last_success_at: z.string().nullable(),
    figures: z.record(z.string(), z.number().nullable()).openapi({
      description: 'Numbers by name, with the unit at its end; null where there is none.',
    }),
  })
  .openapi('StatusComponent')

const serviceStatus = z
  .strictObject({
    status: z.enum(['operational', 'degraded', 'outage']),
    checked_at: z.string(),
    components: z.strictObject({
      api: component,
      database: component,
      queue: component,
      workers: component,
      webhooks: component,
      billing: component,
    }),
  })
  .openapi('ServiceStatus')

const content = {
  'application/json': { schema: serviceStatus },
  'text/html': { schema: z.string() },
}

const route = createRoute({
  method: 'get',
  path: '/v1/status',
  tags: ['Service'],
  summary: 'How the service does; a page where a browser asks',
  security: [],
  responses: {
    200: { description: 'It works, or works slowly.', content },
    503: { description: 'A part that jobs need is out.', content },
  },
})

/**
 * `GET /v1/status`, without a key. An outage is status 503, so that monitors which read no bodies notice it; the body is of
 * the same form. What it says is up to some seconds old.
 */
export function statusGet(deps: Deps) {
  return createRouter().openapi(route, async (c) => {
    const look = await deps.status.look(deps.db)
    const made = judgeService(look, { hasStripe: deps.stripe !== undefined })
    const code = made.status === 'outage' ? 503 : 200
    c.header('cache-control', `public, max-age=${FRESH_MS / 1_000}`)
    c.header('vary', 'accept')
    if (c.req.header('accept')?.includes('text/html') !== true) return c.json(toWire(made), code)
    c.header('content-security-policy', "default-src 'none'; style-src 'unsafe-inline'")
    return c.html(statusPage(made), code)
  })
}

function toWire({ status, checkedAt, components }: ServiceStatus) {
  const wire = (one: Component) => ({
    status: one.status,
    last_success_at: one.lastSuccessAt?.toISOString() ?? null,
    figures: rounded(one.figures),
  })
  const entries = COMPONENTS.map((name) => [name, wire(components[name])] as const)
  return {
    status,
    checked_at: checkedAt.toISOString(),
    components: Object.fromEntries(entries) as Record<
      (typeof COMPONENTS)[number],
      ReturnType<typeof wire>
    >,
  }
}

/** To a tenth. */
function rounded(figures: Component['figures']): Component['figures'] {
  return Object.fromEntries(
    Object.entries(figures).map(([name, value]) => [
      name,
      value === null ? null : Math.round(value * 10) / 10,
    ]),
  )
}
