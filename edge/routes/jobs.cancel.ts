import { createRoute } from '@hono/zod-openapi'
import { requestCancel } from '../../db/job-claims.ts'
import { cancelAnswer, jobIdParam } from '../contract.ts'
import type { Deps } from '../deps.ts'
import { ApiError } from '../errors.ts'
import { KEY_ERRORS, createRouter, errorResponses, jsonResponse } from '../openapi.ts'

const route = createRoute({
  method: 'post',
  path: '/v1/jobs/{job_id}/cancel',
  tags: ['Jobs'],
  summary: 'Stop a job; before its start it costs nothing',
  request: { params: jobIdParam },
  responses: {
    200: jsonResponse(
      cancelAnswer,
      'canceled: ended now, not charged. requested: the worker stops at its next step. finished: it had ended.',
    ),
    ...errorResponses(...KEY_ERRORS, 'not_found'),
  },
})

/** `POST /v1/jobs/{job_id}/cancel`. Safe to repeat. */
export function jobsCancel(deps: Deps) {
  return createRouter().openapi(route, async (c) => {
    const { job_id: jobId } = c.req.valid('param')
    const { outcome } = await requestCancel(deps.db, { orgId: c.get('principal').orgId, jobId })
    if (outcome === 'not_found') {
      throw new ApiError('not_found', { message: `There is no job ${jobId}.` })
    }
    if (outcome === 'canceled') {
      deps.pokeSweep()
      deps.background(deps.objects.removeInputs(jobId))
    }
    return c.json({ id: jobId, outcome }, 200)
  })
}
