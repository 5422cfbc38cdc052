import type { RouteConfig, z } from '@hono/zod-openapi'
import { createApp } from '../../edge/app.ts'
import type { Deps } from '../../edge/deps.ts'

/** Every route of the document, with its schemas. Building the app touches none of its dependencies. */
export function listRoutes(): RouteConfig[] {
  const app = createApp({ log: () => {} } as unknown as Deps)
  return app.openAPIRegistry.definitions.flatMap((definition) =>
    definition.type === 'route' ? [definition.route] : [],
  )
}

/**
 * Returns a function that reads a response and throws when its status, its error type or its body is not
 * what the document lists for that route. JSON comes back parsed, anything else as bytes.
 */
export function createContractCheck(): (
  method: string,
  path: string,
  response: Response,
) => Promise<unknown> {
  const routes = listRoutes()
  return async (method, path, response) => {
    const { pathname } = new URL(path, 'http://gateway')
    const route = routes.find(
      (candidate) =>
        candidate.method === method.toLowerCase() && toPattern(candidate.path).test(pathname),
    )
    const type = response.headers.get('content-type') ?? ''
    const body: unknown = type.includes('json')
      ? await response.json()
      : new Uint8Array(await response.arrayBuffer())
    if (!route) return body
    const name = `${method} ${route.path}`
    const listed = route.responses[response.status]
    if (!listed || '$ref' in listed) {
      throw new Error(`${name} answered ${response.status}, which it does not list: ${show(body)}`)
    }
    if (!response.headers.get('x-request-id')) throw new Error(`${name} sent no x-request-id`)
    const media = listed.content?.[type.split(';')[0] ?? '']
    if (!media || !('schema' in media)) {
      if (listed.content) throw new Error(`${name} answered ${type}, which it does not list`)
      return body
    }
    const { schema } = media
    if (type.includes('json') && schema && 'safeParse' in schema) {
      const parsed = (schema as z.ZodType).safeParse(body)
      if (!parsed.success) throw new Error(`${name}: ${parsed.error.message} in ${show(body)}`)
    }
    const types = (listed as { 'x-error-types'?: unknown })['x-error-types']
    if (Array.isArray(types)) {
      const sent = (body as { error: { type: string } }).error.type
      if (!types.includes(sent)) throw new Error(`${name} answered ${sent}, which it does not list`)
    }
    return body
  }
}

function toPattern(path: string): RegExp {
  return new RegExp(`^${path.replaceAll(/\{[^}]+\}/g, '[^/]+')}$`)
}

function show(body: unknown): string {
  return JSON.stringify(body)?.slice(0, 500) ?? ''
}
