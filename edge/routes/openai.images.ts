import { createRoute } from '@hono/zod-openapi'
import type { z } from '@hono/zod-openapi'
import type { TypedResponse } from 'hono'
import type { JobWithOutputs } from '../../db/jobs.ts'
import { awaitJob, toGone } from '../await-job.ts'
import { createHeaders } from '../contract.ts'
import { createJob, createdHeaders, idempotencyOf, loseCall } from '../create-job.ts'
import type { CreatedJob } from '../create-job.ts'
import type { Deps } from '../deps.ts'
import { ApiError } from '../errors.ts'
import { CREATE_ERRORS, createRouter, errorResponses, jsonBody, jsonResponse } from '../openapi.ts'
import {
  OPENAI_USED_FIELDS,
  encodeOpenAiAnswer,
  openaiImageAnswer,
  openaiImageBody,
  toOpenAiAnswer,
} from '../wire/openai.ts'
import { ignoredFields } from '../wire/zai.ts'

const route = createRoute({
  method: 'post',
  path: '/v1/images/generations',
  tags: ['OpenAI dialect'],
  summary: 'Draw pictures and wait for them',
  request: { headers: createHeaders, body: jsonBody(openaiImageBody) },
  responses: {
    200: jsonResponse(openaiImageAnswer, 'The pictures.'),
    ...errorResponses(...CREATE_ERRORS, 'generation_failed', 'still_running', 'gone'),
  },
})

/** `POST /v1/images/generations` as OpenAI's clients call it. */
export function openaiImages(deps: Deps) {
  return createRouter().openapi(route, async (c) => {
    const body = c.req.valid('json')
    const created = await createJob(deps, c.get('principal'), {
      dialect: 'openai',
      model: body.model,
      prompt: body.prompt,
      size: body.size === null || body.size === 'auto' ? undefined : body.size,
      n: body.n ?? 1,
      seed: body.seed ?? undefined,
      format: body.output_format ?? 'png',
      idempotency: idempotencyOf(c.req.valid('header')),
      isSync: true,
      callerFields: {},
    })
    const found = await awaitJob(deps, created, c.req.raw.signal)
    const answer = await toOpenAiAnswer(deps, found, ignoredFields(body, OPENAI_USED_FIELDS))
    const headers = createdHeaders(created)
    if (body.response_format !== 'b64_json') return c.json(answer, 200, headers)
    const requestId = c.get('requestId')
    const stream = await openBase64(deps, { created, found, answer, requestId })
    // The stream holds the JSON of an answer, which the types cannot see.
    return c.newResponse(stream, 200, {
      ...headers,
      'content-type': 'application/json',
    }) as Response & TypedResponse<typeof answer, 200, 'json'>
  })
}

/**
 * The pictures as a stream whose first one is open. Whatever breaks it leaves the job, which is paid, to an
 * equal call.
 */
async function openBase64(
  deps: Deps,
  call: {
    created: CreatedJob
    found: JobWithOutputs
    answer: z.output<typeof openaiImageAnswer>
    requestId: string
  },
): Promise<ReadableStream<Uint8Array>> {
  const { created, found, answer, requestId } = call
  const { jobId } = created
  const canceled = () => loseCall(deps, created)
  const failed = (error: unknown) => {
    canceled()
    const entry = { event: 'picture_unreadable', request_id: requestId, job_id: jobId }
    deps.log({ level: 'warn', ...entry, error: String(error) })
  }
  const stream = await encodeOpenAiAnswer(deps.objects, answer, found, { failed, canceled }).catch(
    (error: unknown) => {
      failed(error)
      throw new ApiError('unavailable', {
        message: `The picture is drawn but cannot be read at the moment; the same call again fetches it, as does its task id ${jobId}.`,
        data: { task_id: jobId },
      })
    },
  )
  if (stream === null) throw toGone(found)
  return stream
}
