import type { OpenAPIHono } from '@hono/zod-openapi'
import type { RequestState } from '../deps.ts'
import { createRouter } from '../openapi.ts'
import { describeEvents } from '../webhook-events.ts'

/**
 * `GET /openapi.json`, without a key: the document of every route that `app` has at the time of the call.
 */
export function openapiGet(app: OpenAPIHono<RequestState>): OpenAPIHono<RequestState> {
  app.openAPIRegistry.registerComponent('securitySchemes', 'key', {
    type: 'http',
    scheme: 'bearer',
    description:
      'An API key, or its form of the Z.ai dialect: `<key id>.<secret>` or a JWT signed with that secret. ' +
      'Keys that begin with `gp_test_` are named so for their owner alone: they draw pictures and are charged ' +
      'like those that begin with `gp_live_`.',
  })
  let text: string | null = null
  const router = createRouter()
  router.get('/openapi.json', (c) => {
    text ??= JSON.stringify(toDocument(app))
    return c.body(text, 200, { 'content-type': 'application/json' })
  })
  return router
}

function toDocument(app: OpenAPIHono<RequestState>) {
  describeEvents(app)
  return app.getOpenAPI31Document({
    openapi: '3.1.0',
    info: {
      title: 'Glyphpress',
      version: '1',
      description: 'Images with correct spelling, from GLM-Image, with exact billing.',
      license: { name: 'Apache-2.0' },
    },
    security: [{ key: [] }],
  })
}
