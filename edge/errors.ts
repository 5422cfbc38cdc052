import type { Context } from 'hono'
import { HTTPException } from 'hono/http-exception'
import type { z } from '@hono/zod-openapi'
import { codeOf, isOutage } from '../db/outage.ts'
import { createId } from '../db/ids.ts'
import type { errorBody, errorData } from './contract.ts'

interface ErrorKind {
  /** Digits, as Z.ai's clients expect; the Java one turns it into a number. */
  code: string
  status: 400 | 401 | 402 | 403 | 404 | 410 | 413 | 415 | 422 | 429 | 500 | 501 | 503 | 504
  /** Whether the same call can succeed later without a change. */
  retryable: boolean
  /** One sentence that is always true of this error. */
  title: string
}

/** Every error that a client can see. The document and the tests are made from this table. */
export const ERRORS = {
  invalid_request: kind('1214', 400, false, 'A field of the request is not valid.'),
  missing_field: kind('1213', 400, false, 'A required field of the request is missing.'),
  invalid_json: kind('1210', 400, false, 'The request body is not the JSON that this call takes.'),
  invalid_multipart: kind(
    '1210',
    400,
    false,
    'The request body is not the multipart/form-data that this call takes.',
  ),
  prompt_too_long: kind('1261', 400, false, 'The prompt is too long.'),
  unknown_model: kind('1211', 400, false, 'There is no model of this name.'),
  payload_too_large: kind('1210', 413, false, 'The request body is too large.'),
  unsupported_media_type: kind(
    '1210',
    415,
    false,
    'The request body is not of the type that this call takes.',
  ),
  key_missing: kind('1001', 401, false, 'No API key was sent.'),
  key_invalid: kind('1000', 401, false, 'The API key is not valid.'),
  token_expired: kind('1003', 401, false, 'The token or key has expired.'),
  forbidden: kind('1220', 403, false, 'The key may not make this call.'),
  bad_signature: kind('1220', 403, false, 'The signature is not valid.'),
  not_found: kind('1222', 404, false, 'There is nothing under this address.'),
  gone: kind('1222', 410, false, 'What was here has expired or was deleted.'),
  insufficient_credit: kind('1113', 402, false, 'There is not enough credit for this request.'),
  org_frozen: kind(
    '1113',
    402,
    false,
    'A payment of this organisation is disputed or due; until that is settled it can start no jobs.',
  ),
  budget_exceeded: kind('1308', 403, false, 'A spending limit does not allow this request.'),
  idempotency_mismatch: kind(
    '1231',
    422,
    false,
    'This idempotency key was used with another body.',
  ),
  not_finished: kind('1210', 422, false, 'The job has not finished yet.'),
  rate_limited: kind('1302', 429, true, 'Too many requests in a short time.'),
  too_many_inflight: kind('1302', 429, true, 'Too many unfinished jobs at the same time.'),
  generation_failed: kind(
    '1230',
    500,
    false,
    'The picture could not be made. Nothing was charged.',
  ),
  internal: kind('1200', 500, true, 'Something went wrong on our side.'),
  unavailable: kind('1305', 503, true, 'A part of the service is not reachable at the moment.'),
  not_configured: kind('1305', 501, false, 'Payments are not set up on this server.'),
  still_running: kind('1234', 504, false, 'The picture is not ready yet; fetch it by its task id.'),
} as const satisfies Record<string, ErrorKind>

export type ErrorName = keyof typeof ERRORS

/** Z.ai's clients know trouble with money as 429; the code and `x-should-retry` tell it from haste. */
export const ZAI_STATUS = {
  insufficient_credit: 429,
  org_frozen: 429,
  budget_exceeded: 429,
} as const satisfies Partial<Record<ErrorName, ErrorKind['status']>>

export interface ErrorDetails {
  /** What is wrong this time, naming field and rule. */
  message?: string
  /** The field at fault. */
  param?: string
  /** Members for machines: scope, limit, task id. */
  data?: z.output<typeof errorData>
  headers?: Record<string, string>
  /** Where a dialect has another status for the same error. */
  status?: ErrorKind['status']
}

/** An error for the client; only `onError` turns it into a response. */
export class ApiError extends Error {
  override readonly name = 'ApiError'
  readonly kind: ErrorName
  readonly details: ErrorDetails
  constructor(kindName: ErrorName, details: ErrorDetails = {}) {
    super(details.message ?? ERRORS[kindName].title)
    this.kind = kindName
    this.details = details
  }
}

/**
 * Builds every error response: problem details (RFC 9457) and the `error` member of OpenAI and Z.ai in one
 * body. An error that is not ours sends a fixed sentence; its text goes to the log alone.
 *
 * @param onRefusal told of each call that is at fault or over a limit
 */
export function createOnError(
  log: (entry: Record<string, unknown>) => void,
  onRefusal: (error: ApiError) => void = () => {},
) {
  return (error: unknown, c: Context): Response => {
    const requestId = requestIdOf(c)
    const known = toApiError(error)
    if (ERRORS[known.kind].status < 500) onRefusal(known)
    // What the client is told in a fixed sentence, the operator reads here.
    if (known !== error && !(error instanceof HTTPException)) {
      const text = error instanceof Error ? (error.stack ?? error.message) : String(error)
      const level = known.kind === 'internal' ? 'error' : 'warn'
      log({ level, event: 'request_failed', request_id: requestId, kind: known.kind, error: text })
    }
    return errorResponse(known, requestId)
  }
}

/** The response of one error. */
export function errorResponse(error: ApiError, requestId: string): Response {
  const { code, title, retryable, status: usual } = ERRORS[error.kind]
  const { details } = error
  const status = details.status ?? usual
  const body: z.output<typeof errorBody> = {
    type: `urn:glyphpress:error:${error.kind}`,
    title,
    status,
    detail: error.message,
    request_id: requestId,
    ...details.data,
    error: { message: error.message, type: error.kind, param: details.param ?? null, code },
  }
  return new Response(JSON.stringify(body), {
    status,
    headers: {
      'content-type': 'application/problem+json',
      'x-request-id': requestId,
      // Clients retry 429 and 5xx by default; the hopeless ones say so.
      ...(retryable ? {} : { 'x-should-retry': 'false' }),
      ...(status === 503 ? { 'retry-after': '5' } : {}),
      ...details.headers,
    },
  })
}

/** The id of this request: in every response, log line and error body. */
export function requestIdOf(c: Context): string {
  const known: unknown = c.get('requestId')
  if (typeof known === 'string') return known
  const made = createId('request')
  c.set('requestId', made)
  return made
}

/** What Postgres cannot hold: U+0000, half of a surrogate pair, a number out of range. */
const UNSTORABLE_CODES: ReadonlySet<string> = new Set(['22021', '22P05', '22P02', '22003'])

function toApiError(error: unknown): ApiError {
  if (error instanceof ApiError) return error
  if (error instanceof HTTPException) {
    if (error.status === 415) return new ApiError('unsupported_media_type')
    if (error.status === 413) return new ApiError('payload_too_large')
    if (error.status === 400) return new ApiError('invalid_json')
  }
  // The database is down, full or too busy: money is never guessed, so the call is refused and may be repeated.
  if (isOutage(error)) return new ApiError('unavailable')
  if (UNSTORABLE_CODES.has(codeOf(error))) {
    return new ApiError('invalid_request', {
      message: 'A value cannot be stored.',
    })
  }
  return new ApiError('internal')
}

function kind<Status extends ErrorKind['status']>(
  code: string,
  status: Status,
  retryable: boolean,
  title: string,
): ErrorKind & { status: Status } {
  return { code, status, retryable, title }
}
