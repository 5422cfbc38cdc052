import { createRoute } from '@hono/zod-openapi'
import { isTerminal } from '../../db/job-state.ts'
import { findJob } from '../../db/jobs.ts'
import { jobIdParam, wireJob } from '../contract.ts'
import type { Deps } from '../deps.ts'
import { ApiError } from '../errors.ts'
import { KEY_ERRORS, createRouter, errorResponses, jsonResponse } from '../openapi.ts'
import { toWireJob } from '../wire/native.ts'

/** A picture takes seconds; asking more often than this tells nothing new. */
const POLL_HINT_SECONDS = 1

const route = createRoute({
  method: 'get',
  path: '/v1/jobs/{job_id}',
  tags: ['Jobs'],
  summary: 'One job with fresh result URLs',
  request: { params: jobIdParam },
  responses: {
    200: jsonResponse(wireJob, 'The job.'),
    ...errorResponses(...KEY_ERRORS, 'not_found'),
  },
})

/** `GET /v1/jobs/{job_id}`: another org's job is not there. */
export function jobsGet(deps: Deps) {
  return createRouter().openapi(route, async (c) => {
    const { job_id: jobId } = c.req.valid('param')
    const found = await findJob(deps.db, { orgId: c.get('principal').orgId, jobId })
    if (!found) throw new ApiError('not_found', { message: `There is no job ${jobId}.` })
    if (!isTerminal(found.job.state)) c.header('retry-after', String(POLL_HINT_SECONDS))
    return c.json(await toWireJob(deps, found), 200)
  })
}
