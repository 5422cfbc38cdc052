import { createRoute, z } from '@hono/zod-openapi'
import { findJob } from '../../db/jobs.ts'
import { awaitJob, findCreated } from '../await-job.ts'
import { createHeaders } from '../contract.ts'
import { createJob, createdHeaders, idempotencyOf } from '../create-job.ts'
import type { ImageOrder } from '../create-job.ts'
import type { Deps } from '../deps.ts'
import { ApiError } from '../errors.ts'
import {
  CREATE_ERRORS,
  KEY_ERRORS,
  createRouter,
  errorResponses,
  jsonBody,
  jsonResponse,
  zaiErrorResponses,
} from '../openapi.ts'
import { textTermsOf } from '../text-contract.ts'
import {
  toZaiAnswer,
  toZaiTask,
  toZaiTaskResult,
  zaiImageAnswer,
  zaiIgnoredFields,
  zaiImageBody,
  zaiTask,
  zaiTaskResult,
} from '../wire/zai.ts'
import type { ZaiImageBody } from '../wire/zai.ts'

const sync = createRoute({
  method: 'post',
  path: '/images/generations',
  tags: ['Z.ai dialect'],
  summary: 'Draw one picture and wait for it',
  request: { headers: createHeaders, body: jsonBody(zaiImageBody) },
  responses: {
    200: jsonResponse(zaiImageAnswer, 'The picture.'),
    ...zaiErrorResponses(...CREATE_ERRORS, 'generation_failed', 'still_running', 'gone'),
  },
})
const async_ = createRoute({
  method: 'post',
  path: '/async/images/generations',
  tags: ['Z.ai dialect'],
  summary: 'Ask for one picture; answers at once with a task',
  request: { headers: createHeaders, body: jsonBody(zaiImageBody) },
  responses: { 200: jsonResponse(zaiTask, 'The task.'), ...zaiErrorResponses(...CREATE_ERRORS) },
})
const result = createRoute({
  method: 'get',
  path: '/async-result/{id}',
  tags: ['Z.ai dialect'],
  summary: 'State and result of a task; a failed one is status 200 with FAIL',
  request: { params: z.object({ id: z.string().openapi({ example: 'job_01k...' }) }) },
  responses: {
    200: jsonResponse(zaiTaskResult, 'The task.'),
    ...errorResponses(...KEY_ERRORS, 'not_found'),
  },
})

/** Z.ai's three image calls, to be mounted under `/api/paas/v4` and `/paas/v4`. */
export function zaiImages(deps: Deps) {
  return createRouter()
    .openapi(sync, async (c) => {
      const body = c.req.valid('json')
      const order = toOrder(body, c.req.valid('header'), { isSync: true, origin: c.get('origin') })
      const created = await createJob(deps, c.get('principal'), order)
      const found = await awaitJob(deps, created, c.req.raw.signal)
      const answer = await toZaiAnswer(deps, found, zaiIgnoredFields(body))
      return c.json(answer, 200, createdHeaders(created))
    })
    .openapi(async_, async (c) => {
      const body = c.req.valid('json')
      const order = toOrder(body, c.req.valid('header'), { isSync: false, origin: c.get('origin') })
      const created = await createJob(deps, c.get('principal'), order)
      const task = toZaiTask(await findCreated(deps, created), zaiIgnoredFields(body))
      return c.json(task, 200, createdHeaders(created))
    })
    .openapi(result, async (c) => {
      const { id: jobId } = c.req.valid('param')
      const found = await findJob(deps.db, { orgId: c.get('principal').orgId, jobId })
      if (!found) throw new ApiError('not_found', { message: `There is no task ${jobId}.` })
      return c.json(await toZaiTaskResult(deps, found), 200)
    })
}

/** Z.ai's own way to repeat a call safely is its request_id; the header goes first where both are sent. */
function toOrder(
  body: ZaiImageBody,
  headers: z.output<typeof createHeaders>,
  call: Pick<ImageOrder, 'isSync' | 'origin'>,
): ImageOrder {
  const { request_id: requestId, user_id: userId } = body
  return {
    dialect: 'zai',
    model: body.model,
    prompt: body.prompt,
    size: sizeOf(body),
    n: body.n ?? 1,
    format: 'png',
    idempotency:
      idempotencyOf(headers) ??
      (requestId == null ? null : { key: `request_id:${requestId}`, param: 'request_id' }),
    ...call,
    callerFields: {
      ...(requestId == null ? {} : { request_id: requestId }),
      ...(userId == null ? {} : { user_id: userId }),
    },
    ...textTermsOf(body.prompt, body, headers),
  }
}

/** Z.ai has `size` alone; the Hugging Face client sends width and height to it. */
function sizeOf({ size, width, height }: ZaiImageBody): string | undefined {
  if (size != null) return size
  if (width == null && height == null) return undefined
  if (width == null || height == null) {
    throw new ApiError('invalid_request', {
      message: 'width and height: both or neither.',
      param: width == null ? 'width' : 'height',
    })
  }
  return `${width}x${height}`
}
