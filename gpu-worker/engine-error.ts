/** What ended a call of the engine; the first five never succeed by trying again. */
export type EngineErrorCode =
  | 'invalid_request'
  | 'canceled'
  | 'model_invalid'
  | 'provider_unavailable'
  | 'engine_closed'
  | 'engine_busy'
  /** An engine on another machine cannot be had; the request has nothing to do with it. */
  | 'engine_unreachable'
  | 'engine_start_failed'
  | 'engine_crashed'
  | 'engine_timeout'
  | 'engine_failed'

const FINAL_CODES: ReadonlySet<EngineErrorCode> = new Set([
  'invalid_request',
  'canceled',
  'model_invalid',
  'provider_unavailable',
  'engine_closed',
])

/**
 * A call that gave no picture.
 *
 * `retryable` says whether the same request may succeed on another try. `field` names the field of an
 * `invalid_request` and is null otherwise.
 */
export class EngineError extends Error {
  readonly code: EngineErrorCode
  readonly retryable: boolean
  readonly field: string | null

  constructor(
    code: EngineErrorCode,
    message: string,
    options: { cause?: unknown; field?: string } = {},
  ) {
    super(message, 'cause' in options ? { cause: options.cause } : {})
    this.name = 'EngineError'
    this.code = code
    this.retryable = !FINAL_CODES.has(code)
    this.field = options.field ?? null
  }
}

/** Any thrown value as an EngineError; one that already is comes back unchanged. */
export function toEngineError(thrown: unknown): EngineError {
  if (thrown instanceof EngineError) return thrown
  const message = thrown instanceof Error ? thrown.message : String(thrown)
  const isModel = thrown instanceof Error && 'code' in thrown && thrown.code === 'model_invalid'
  return new EngineError(isModel ? 'model_invalid' : 'engine_failed', message, { cause: thrown })
}

/** An EngineError as it travels between processes and threads. */
export interface EngineFailure {
  code: EngineErrorCode
  message: string
  field: string | null
}

export function toFailure(thrown: unknown): EngineFailure {
  const { code, message, field } = toEngineError(thrown)
  return { code, message, field }
}

export function ofFailure({ code, message, field }: EngineFailure): EngineError {
  return new EngineError(code, message, field === null ? {} : { field })
}
