import { createRoute, z } from '@hono/zod-openapi'
import { exportStatement } from '../../billing/statement/export.ts'
import type { StatementExport, StatementFormat } from '../../billing/statement/export.ts'
import { parseMonth } from '../../billing/statement/month.ts'
import type { Deps } from '../deps.ts'
import { ApiError } from '../errors.ts'
import { KEY_ERRORS, createRouter, errorResponses } from '../openapi.ts'
import { statement } from '../statement-contract.ts'

const text = { schema: z.string() }

const route = createRoute({
  method: 'get',
  path: '/v1/statements/{month}',
  tags: ['Billing'],
  summary: 'What the organisation, or one team, used in a month',
  request: {
    // Whatever is no month is a statement that is not there.
    params: z.object({ month: z.string().openapi({ example: '2026-11' }) }),
    query: z.strictObject({
      team: z
        .string()
        .max(64)
        .optional()
        .openapi({ description: 'A team; absent: the whole org.' }),
      format: z.enum(['json', 'csv', 'html', 'focus']).default('json').openapi({
        description: '`focus`: every charge as a row of the FOCUS Cost and Usage dataset, in CSV.',
      }),
      focus_version: z.enum(['1.4', '1.2']).default('1.4'),
    }),
  },
  responses: {
    200: {
      description:
        'The statement. `x-statement-state` says whether it is closed: then its bytes never change.',
      content: {
        'application/json': { schema: statement },
        'text/csv': text,
        'text/html': text,
      },
    },
    304: { description: 'The client has it already.' },
    ...errorResponses(...KEY_ERRORS, 'invalid_request', 'not_found'),
  },
})

const TYPES: Record<StatementFormat, string> = {
  json: 'application/json',
  csv: 'text/csv; charset=utf-8',
  focus: 'text/csv; charset=utf-8',
  html: 'text/html; charset=utf-8',
}

/** `GET /v1/statements/{month}`. A month of any size is sent as it is read. */
export function statementsGet(deps: Deps) {
  return createRouter().openapi(route, async (c) => {
    const { team = null, format, focus_version: version } = c.req.valid('query')
    const wanted = parseMonth(c.req.valid('param').month)
    if (!wanted || wanted.start > deps.now()) throw new ApiError('not_found')
    const scope = { orgId: c.get('principal').orgId, teamId: team, month: wanted }
    const made = await exportStatement(deps.db, scope, { format, focus: { version } })
    if (!made) throw new ApiError('not_found')
    // The lines of FOCUS name their invoice once there is one, so its bytes have no name of their own.
    const tag = format === 'focus' ? null : `"${made.file.sha256}-${format}"`
    const name = ['statement', wanted.month, ...(team === null ? [] : [team])].join('-')
    const headers = {
      'content-type': TYPES[format],
      'content-disposition': `${format === 'html' ? 'inline' : 'attachment'}; filename="${name}${SUFFIXES[format]}"`,
      'cache-control': 'private, no-cache',
      'x-statement-state': made.file.closedAt ? 'closed' : 'open',
      'x-statement-sha256': made.file.sha256,
      'x-content-type-options': 'nosniff',
      // The page is names that people chose; it runs nothing and loads nothing.
      'content-security-policy': "default-src 'none'; style-src 'unsafe-inline'; sandbox",
      ...(tag === null ? {} : { etag: tag }),
    }
    if (tag !== null && c.req.header('if-none-match')?.includes(tag) === true)
      return new Response(null, { status: 304, headers })
    return new Response(toStream(made.body), { headers })
  })
}

const SUFFIXES: Record<StatementFormat, string> = {
  json: '.json',
  csv: '.csv',
  focus: '-focus.csv',
  html: '.html',
}

/** Reads a piece when the client has taken the one before, and stops when it has gone. */
function toStream(pieces: StatementExport['body']): ReadableStream<Uint8Array> {
  const iterator = pieces[Symbol.asyncIterator]()
  const encoder = new TextEncoder()
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      for (;;) {
        const next = await iterator.next()
        if (next.done) return controller.close()
        // An empty piece would not ask for the next one.
        if (next.value === '') continue
        return controller.enqueue(encoder.encode(next.value))
      }
    },
    async cancel() {
      await iterator.return?.()
    },
  })
}
