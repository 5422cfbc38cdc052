import { FormData } from 'undici'
import { EngineError } from './engine-error.ts'
import type { CheckedRequest } from './pipeline/check-request.ts'

const GENERATIONS = '/v1/images/generations'
const EDITS = '/v1/images/edits'
/** Of an error's text, what is kept. */
const MAX_ERROR_TEXT = 500

/** A call of OpenAI's images protocol that asks for one picture. */
export interface RemoteCall {
  path: typeof GENERATIONS | typeof EDITS
  headers: Record<string, string>
  body: string | FormData
}

/** Pictures to work from make it an edit, whose call is a form. */
export function toCall(served: string, request: CheckedRequest): RemoteCall {
  const fields = toFields(served, request)
  const { images = [] } = request
  if (images.length === 0) {
    const headers = { 'content-type': 'application/json' }
    return { path: GENERATIONS, headers, body: JSON.stringify(fields) }
  }
  const form = new FormData()
  for (const [name, value] of Object.entries(fields)) form.append(name, String(value))
  for (const [index, bytes] of images.entries()) {
    form.append('image', new Blob([new Uint8Array(bytes)]), `image-${index}`)
  }
  return { path: EDITS, headers: {}, body: form }
}

/** Steps and guidance go by the names that diffusion servers have added to OpenAI's fields. */
function toFields(served: string, request: CheckedRequest): Record<string, unknown> {
  return {
    model: served,
    prompt: request.prompt,
    n: 1,
    size: `${request.width}x${request.height}`,
    seed: request.seed,
    num_inference_steps: request.steps,
    guidance_scale: request.guidanceScale,
    response_format: 'b64_json',
    output_format: 'png',
  }
}

/** A request that the server finds wrong is wrong for ever; what is the server's own trouble passes. */
export function toRefusal(call: RemoteCall, status: number, text: string): EngineError {
  const message = `the server answers ${status}: ${text.slice(0, MAX_ERROR_TEXT)}`
  switch (status) {
    case 400:
    case 413:
    case 422:
      return new EngineError('invalid_request', message)
    case 404:
      // Most servers of one model offer no edits, and this one never will.
      return new EngineError(
        call.path === EDITS ? 'invalid_request' : 'engine_unreachable',
        message,
      )
    case 401:
    case 403:
      return new EngineError('engine_unreachable', message)
    case 429:
      return new EngineError('engine_busy', message)
    case 502:
    case 503:
    case 504:
      return new EngineError('engine_unreachable', message)
    default:
      return new EngineError('engine_failed', message)
  }
}
