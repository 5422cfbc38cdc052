import { createRoute } from '@hono/zod-openapi'
import type { TypedResponse } from 'hono'
import { awaitJob } from '../await-job.ts'
import { createHeaders } from '../contract.ts'
import { createJob } from '../create-job.ts'
import type { Deps } from '../deps.ts'
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
    ...errorResponses(...CREATE_ERRORS, 'generation_failed', 'still_running'),
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
      idempotencyKey: c.req.valid('header')['idempotency-key'] ?? null,
      isSync: true,
      callerFields: {},
    })
    const found = await awaitJob(deps, created, c.req.raw.signal)
    const answer = await toOpenAiAnswer(deps, found, ignoredFields(body, OPENAI_USED_FIELDS))
    c.header('idempotent-replayed', created.replayed ? 'true' : undefined)
    if (body.response_format !== 'b64_json') return c.json(answer, 200)
    c.header('content-type', 'application/json')
    // The stream holds the JSON of an answer, which the types cannot see.
    return c.newResponse(encodeOpenAiAnswer(deps.objects, answer, found), 200) as Response &
      TypedResponse<typeof answer, 200, 'json'>
  })
}
