import { OpenAPIHono } from '@hono/zod-openapi'
import type { z } from '@hono/zod-openapi'
import { LinearRouter } from 'hono/router/linear-router'
import { errorBody } from './contract.ts'
import type { RequestState } from './deps.ts'
import { ApiError, ERRORS, ZAI_STATUS } from './errors.ts'
import type { ErrorName } from './errors.ts'

/** An app whose routes refuse invalid input with our error body. */
export function createRouter(
  options: { isBuiltPerRequest?: boolean } = {},
): OpenAPIHono<RequestState> {
  return new OpenAPIHono<RequestState>({
    ...(options.isBuiltPerRequest ? { router: new LinearRouter() } : {}),
    defaultHook: (result, c) => {
      if (result.success) return
      // A body without a content type was refused before, so there is none.
      const isBodyMissing = result.target === 'json' && c.req.header('content-type') === undefined
      if (isBodyMissing) throw new ApiError('missing_field', { message: 'The body is missing.' })
      throw toFieldError(result.error)
    },
  })
}

/** What every call behind a key can answer beside its own errors. */
export const KEY_ERRORS = [
  'key_missing',
  'key_invalid',
  'token_expired',
  'forbidden',
  'rate_limited',
  'internal',
  'unavailable',
] as const satisfies readonly ErrorName[]

/** What every call with a body can answer beside its own errors. */
export const BODY_ERRORS = [
  'invalid_request',
  'missing_field',
  'invalid_json',
  'payload_too_large',
  'unsupported_media_type',
] as const satisfies readonly ErrorName[]

/** What every call that makes a job can answer. */
export const CREATE_ERRORS = [
  ...KEY_ERRORS,
  ...BODY_ERRORS,
  'prompt_too_long',
  'unknown_model',
  'insufficient_credit',
  'org_frozen',
  'budget_exceeded',
  'too_many_inflight',
  'idempotency_mismatch',
] as const satisfies readonly ErrorName[]

/** The error responses of a route for the document: statuses with the names that each can carry. */
export function errorResponses(...names: readonly ErrorName[]) {
  return errorsByStatus(names, {})
}

/** The same for Z.ai's dialect, where some errors have another status. */
export function zaiErrorResponses(...names: readonly ErrorName[]) {
  return errorsByStatus(names, ZAI_STATUS)
}

function errorsByStatus(
  names: readonly ErrorName[],
  otherStatus: Partial<Record<ErrorName, number>>,
) {
  const byStatus = new Map<number, ErrorName[]>()
  for (const name of new Set(names)) {
    const status = otherStatus[name] ?? ERRORS[name].status
    byStatus.set(status, [...(byStatus.get(status) ?? []), name])
  }
  return Object.fromEntries(
    [...byStatus].map(([status, list]) => [
      status,
      {
        description: list.map((name) => `${name}: ${ERRORS[name].title}`).join(' '),
        content: { 'application/problem+json': { schema: errorBody } },
        'x-error-types': list,
      },
    ]),
  )
}

/** A JSON response of the document. */
export function jsonResponse<Schema extends z.ZodType>(schema: Schema, description: string) {
  return { description, content: { 'application/json': { schema } } }
}

/** A body that must be there: without `required` an empty one would skip validation. */
export function jsonBody<Schema extends z.ZodType>(schema: Schema) {
  return { required: true, content: { 'application/json': { schema } } } as const
}

/** Longer names and paths, which come from the caller, are cut: no answer should grow with its request. */
export const MAX_PARAM_LENGTH = 100

/** The first thing wrong, as a sentence that names field and rule. */
export function toFieldError(error: z.core.$ZodError): ApiError {
  const [issue] = error.issues
  if (!issue) return new ApiError('invalid_request')
  if (issue.code === 'unrecognized_keys') {
    const field = (issue.keys[0] ?? '').slice(0, MAX_PARAM_LENGTH)
    return new ApiError('invalid_request', {
      message: `${field}: is not a field of this call.`,
      param: field,
    })
  }
  const param = toParam(issue.path).slice(0, MAX_PARAM_LENGTH)
  if (param === '') {
    const rule = issue.message.replace(/^Invalid input: /, '')
    return new ApiError('invalid_request', { message: `The body is not valid: ${rule}.` })
  }
  if (param === 'prompt' && issue.code === 'too_big') {
    return new ApiError('prompt_too_long', { message: `${param}: ${issue.message}.`, param })
  }
  // The library leaves the input out of its issues; only its sentence tells an absent field from a wrong one.
  if (issue.code === 'invalid_type' && issue.message.endsWith('received undefined')) {
    return new ApiError('missing_field', { message: `${param} is missing.`, param })
  }
  return new ApiError('invalid_request', { message: `${param}: ${issue.message}.`, param })
}

/** `images[1].job`: the way to a field. */
function toParam(path: readonly PropertyKey[]): string {
  return path
    .map((step) => (typeof step === 'number' ? `[${step}]` : `.${String(step)}`))
    .join('')
    .replace(/^\./, '')
}
