import { createRoute, z } from '@hono/zod-openapi'
import { isTerminal } from '../../db/job-state.ts'
import { findJob } from '../../db/jobs.ts'
import { jobIdParam } from '../contract.ts'
import type { Deps } from '../deps.ts'
import { ApiError } from '../errors.ts'
import { KEY_ERRORS, createRouter, errorResponses, jsonBody, jsonResponse } from '../openapi.ts'
import { MAX_URL_SECONDS } from '../signed-url.ts'
import { signOutputs } from '../wire/native.ts'

const body = z
  .strictObject({ expires_in_seconds: z.int().min(1).max(MAX_URL_SECONDS) })
  .openapi('SignOutputs')

const answer = z
  .strictObject({
    id: z.string(),
    outputs: z.array(
      z.strictObject({
        index: z.int(),
        url: z.url(),
        expires_at: z.iso.datetime(),
        sha256: z.string(),
      }),
    ),
  })
  .openapi('SignedOutputs')

const route = createRoute({
  method: 'post',
  path: '/v1/jobs/{job_id}/sign',
  tags: ['Results'],
  summary: 'New result URLs with a life of your choice, also after the first ones have expired',
  request: { params: jobIdParam, body: jsonBody(body) },
  responses: {
    200: jsonResponse(answer, 'A URL for each delivered picture.'),
    ...errorResponses(
      ...KEY_ERRORS,
      'not_found',
      'not_finished',
      'gone',
      'invalid_request',
      'missing_field',
      'invalid_json',
      'payload_too_large',
      'unsupported_media_type',
    ),
  },
})

/** `POST /v1/jobs/{job_id}/sign`. Earlier URLs stay good until their own expiry. Safe to repeat. */
export function jobsSign(deps: Deps) {
  return createRouter().openapi(route, async (c) => {
    const { job_id: jobId } = c.req.valid('param')
    const { expires_in_seconds: seconds } = c.req.valid('json')
    const found = await findJob(deps.db, { orgId: c.get('principal').orgId, jobId })
    if (!found) throw new ApiError('not_found', { message: `There is no job ${jobId}.` })
    if (!isTerminal(found.job.state)) throw new ApiError('not_finished')
    if (found.job.deletedAt !== null)
      throw new ApiError('gone', { message: 'The pictures were deleted.' })
    const outputs = await signOutputs(deps, found, seconds)
    return c.json(
      {
        id: jobId,
        outputs: outputs.map((output) => ({
          index: output.index,
          url: output.url,
          expires_at: output.expiresAt.toISOString(),
          sha256: output.sha256,
        })),
      },
      200,
    )
  })
}
