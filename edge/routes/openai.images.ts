import { createRoute } from '@hono/zod-openapi'
import { createHeaders } from '../contract.ts'
import { createJob, idempotencyOf } from '../create-job.ts'
import type { Deps } from '../deps.ts'
import { answerOpenAi } from '../openai-answer.ts'
import { CREATE_ERRORS, createRouter, errorResponses, jsonBody, jsonResponse } from '../openapi.ts'
import { textTermsOf } from '../text-contract.ts'
import { OPENAI_USED_FIELDS, openaiImageAnswer, openaiImageBody } from '../wire/openai.ts'
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
      origin: c.get('origin'),
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
      ...textTermsOf(body.prompt, body, c.req.valid('header')),
    })
    return answerOpenAi(deps, c, created, {
      isBase64: body.response_format === 'b64_json',
      ignored: ignoredFields(body, OPENAI_USED_FIELDS),
    })
  })
}
