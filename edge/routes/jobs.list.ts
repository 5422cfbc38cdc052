import { createRoute, z } from '@hono/zod-openapi'
import { listJobs } from '../../db/jobs.ts'
import { jobPage, jobState, pageLimit } from '../contract.ts'
import type { Deps } from '../deps.ts'
import { KEY_ERRORS, createRouter, errorResponses, jsonResponse } from '../openapi.ts'
import { toWireJob } from '../wire/native.ts'

const route = createRoute({
  method: 'get',
  path: '/v1/jobs',
  tags: ['Jobs'],
  summary: 'Jobs of the organisation, newest first',
  request: {
    query: z.strictObject({
      state: jobState.optional(),
      before: z
        .string()
        .regex(/^job_\w{1,60}$/)
        .optional(),
      limit: pageLimit(20, 100),
    }),
  },
  responses: {
    200: jsonResponse(jobPage, 'A page; pass `next_before` as `before` for the next one.'),
    ...errorResponses(...KEY_ERRORS, 'invalid_request'),
  },
})

/** `GET /v1/jobs` */
export function jobsList(deps: Deps) {
  return createRouter().openapi(route, async (c) => {
    const { state, before, limit } = c.req.valid('query')
    const { orgId } = c.get('principal')
    const rows = await listJobs(deps.db, {
      orgId,
      limit: limit + 1,
      ...(state === undefined ? {} : { state }),
      ...(before === undefined ? {} : { before }),
    })
    const page = rows.slice(0, limit)
    const data = await Promise.all(page.map((found) => toWireJob(deps, found)))
    const hasMore = rows.length > limit
    const nextBefore = hasMore ? (page.at(-1)?.job.id ?? null) : null
    return c.json(
      { object: 'list' as const, data, has_more: hasMore, next_before: nextBefore },
      200,
    )
  })
}
