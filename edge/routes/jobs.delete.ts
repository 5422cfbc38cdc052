import { createRoute, z } from '@hono/zod-openapi'
import { markJobDeleted } from '../../db/jobs.ts'
import { jobIdParam } from '../contract.ts'
import type { Deps } from '../deps.ts'
import { ApiError } from '../errors.ts'
import { KEY_ERRORS, createRouter, errorResponses, jsonResponse } from '../openapi.ts'

const answer = z
  .strictObject({
    id: z.string(),
    deleted: z.literal(true),
    objects_removed: z.int().openapi({ description: 'Pictures that the job had.' }),
  })
  .openapi('JobDeleted')

const route = createRoute({
  method: 'delete',
  path: '/v1/jobs/{job_id}',
  tags: ['Jobs'],
  summary: 'Forget prompt, metadata and pictures of a finished job; its bill stays',
  request: { params: jobIdParam },
  responses: {
    200: jsonResponse(answer, 'They are gone, and their URLs with them.'),
    ...errorResponses(...KEY_ERRORS, 'not_found', 'not_finished'),
  },
})

/**
 * `DELETE /v1/jobs/{job_id}`. URLs stop working first, then the objects go: after a crash in between a
 * repeat removes what is left. Safe to repeat.
 */
export function jobsDelete(deps: Deps) {
  return createRouter().openapi(route, async (c) => {
    const { job_id: jobId } = c.req.valid('param')
    const marked = await markJobDeleted(deps.db, { orgId: c.get('principal').orgId, jobId })
    if (!marked.ok && marked.reason === 'not_found')
      throw new ApiError('not_found', { message: `There is no job ${jobId}.` })
    if (!marked.ok) throw new ApiError('not_finished', { message: 'Cancel the job first.' })
    await deps.objects.remove(jobId)
    return c.json({ id: jobId, deleted: true as const, objects_removed: marked.images }, 200)
  })
}
