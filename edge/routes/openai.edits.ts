import { createRoute } from '@hono/zod-openapi'
import { admitEarly } from '../admission.ts'
import { createHeaders } from '../contract.ts'
import { createJob, idempotencyOf, isRepeat } from '../create-job.ts'
import type { Deps } from '../deps.ts'
import { EDIT_FORM, readEditForm } from '../edit-form.ts'
import type { EarlyFields } from '../edit-form.ts'
import { answerOpenAi } from '../openai-answer.ts'
import { CREATE_ERRORS, createRouter, errorResponses, jsonResponse } from '../openapi.ts'
import { takeInputs } from '../take-inputs.ts'
import type { Intake } from '../take-inputs.ts'
import { textTermsOf } from '../text-contract.ts'
import { OPENAI_USED_FIELDS, openaiImageAnswer } from '../wire/openai.ts'
import { ignoredFields } from '../wire/zai.ts'

export const EDITS_PATH = '/v1/images/edits'

const route = createRoute({
  method: 'post',
  path: EDITS_PATH,
  tags: ['OpenAI dialect'],
  summary: 'Draw pictures after others and wait for them',
  request: {
    headers: createHeaders,
    body: { required: true, content: { 'multipart/form-data': { schema: EDIT_FORM } } },
  },
  responses: {
    200: jsonResponse(openaiImageAnswer, 'The pictures.'),
    ...errorResponses(
      ...CREATE_ERRORS,
      'invalid_multipart',
      'generation_failed',
      'still_running',
      'gone',
    ),
  },
})

/**
 * `POST /v1/images/edits` as OpenAI's clients call it. The form is read as it comes, one picture at a time in memory,
 * and what can be refused is refused before the next one is read.
 */
export function openaiEdits(deps: Deps) {
  const router = createRouter()
  router.use(EDITS_PATH, async (c, next) => {
    await next()
    // The rest of the body may be unread, so the connection cannot carry another call.
    if (c.res.status >= 400) c.res.headers.set('connection', 'close')
  })
  return router.openapi(route, async (c) => {
    const principal = c.get('principal')
    const refused = {
      dialect: 'openai' as const,
      idempotency: idempotencyOf(c.req.valid('header')),
    }
    const isKnown = await isRepeat(deps, principal, refused.idempotency)
    const admit = async (fields: EarlyFields) => {
      if (isKnown) return
      const terms = { ...fields, size: sizeOf(fields) }
      await admitEarly(deps, principal, { terms, refused })
    }
    await admit({})
    let ignored: string[] = []
    let isBase64 = false
    const read = async (intake: Intake) => {
      const fields = await readEditForm(c.req.raw, intake, admit)
      ignored = ignoredFields(fields, OPENAI_USED_FIELDS)
      isBase64 = fields.response_format === 'b64_json'
      return createJob(deps, principal, {
        ...refused,
        origin: c.get('origin'),
        model: fields.model,
        prompt: fields.prompt,
        size: sizeOf(fields),
        n: fields.n ?? 1,
        seed: fields.seed,
        format: fields.output_format ?? 'png',
        isSync: true,
        callerFields: {},
        ...textTermsOf(fields.prompt, fields, c.req.valid('header')),
        inputs: intake.inputs,
      })
    }
    // Not for as long as the caller waits for its pictures.
    const created = await deps.uploads.hold(principal.orgId, () =>
      takeInputs(deps, { isRepeat: isKnown }, read),
    )
    return answerOpenAi(deps, c, created, { isBase64, ignored })
  })
}

function sizeOf({ size }: EarlyFields): string | undefined {
  return size === null || size === 'auto' ? undefined : size
}
