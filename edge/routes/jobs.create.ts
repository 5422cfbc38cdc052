import { createRoute } from '@hono/zod-openapi'
import { findCreated } from '../await-job.ts'
import { createHeaders, createJobBody, wireJob } from '../contract.ts'
import { createJob, createdHeaders, idempotencyOf } from '../create-job.ts'
import type { ImageOrder } from '../create-job.ts'
import { createFromInputs } from '../job-inputs.ts'
import type { Deps } from '../deps.ts'
import { CREATE_ERRORS, createRouter, errorResponses, jsonBody, jsonResponse } from '../openapi.ts'
import { textTermsOf } from '../text-contract.ts'
import { toWireJob } from '../wire/native.ts'

const route = createRoute({
  method: 'post',
  path: '/v1/jobs',
  tags: ['Jobs'],
  summary: 'Ask for pictures; answers at once with the job',
  request: { headers: createHeaders, body: jsonBody(createJobBody) },
  responses: {
    201: jsonResponse(wireJob, 'The accepted job.'),
    200: jsonResponse(wireJob, 'The job that this idempotency key made before.'),
    ...errorResponses(...CREATE_ERRORS),
  },
})

/** `POST /v1/jobs` with `Idempotency-Key`. */
export function jobsCreate(deps: Deps) {
  return createRouter().openapi(route, async (c) => {
    const body = c.req.valid('json')
    const principal = c.get('principal')
    const order: ImageOrder = {
      origin: c.get('origin'),
      dialect: 'native',
      model: body.model,
      prompt: body.prompt,
      size: body.size,
      n: body.n,
      seed: body.seed,
      steps: body.steps,
      guidanceScale: body.guidance_scale,
      format: body.output_format,
      priority: body.priority,
      webhookUrl: body.webhook_url,
      idempotency: idempotencyOf(c.req.valid('header')),
      isSync: false,
      callerFields: body.metadata === undefined ? {} : { metadata: body.metadata },
      ...textTermsOf(body.prompt, body, c.req.valid('header')),
    }
    const { images } = body
    const created = await (images === undefined
      ? createJob(deps, principal, order)
      : createFromInputs(deps, principal, { order, images }))
    const answer = await toWireJob(deps, await findCreated(deps, created))
    return c.json(answer, created.replayed ? 200 : 201, createdHeaders(created))
  })
}
