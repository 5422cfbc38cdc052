import {
  MaxFileSizeExceededError,
  MaxPartsExceededError,
  MaxTotalSizeExceededError,
  MultipartParseError,
  MultipartParser,
  getMultipartBoundary,
} from '@remix-run/multipart-parser'
import type { MultipartPart } from '@remix-run/multipart-parser'
import { ApiError } from './errors.ts'
import { MAX_PARAM_LENGTH } from './openapi.ts'

export interface MultipartLimits {
  maxPartBytes: number
  maxTotalBytes: number
  maxParts: number
}

/** One field of a form, whole. */
export interface FormPart {
  name: string
  size: number
  /** Once: the field is handed over. */
  bytes(): Uint8Array
  /** @throws ApiError when it is no UTF-8 */
  text(): string
}

/** RFC 2046, 5.1.1. */
const BOUNDARY_FORM = /^[0-9A-Za-z'()+_,\-./:=? ]{1,70}$/

/**
 * The fields of a `multipart/form-data` body, in order, one in memory at a time: the next is read when this one was
 * dealt with. A limit ends the reading at the chunk that passes it; whatever ends it, the rest of the body is
 * not read.
 *
 * @throws ApiError `payload_too_large`, or `invalid_multipart` also for a body whose sender went away
 */
export async function* readForm(
  request: Request,
  limits: MultipartLimits,
): AsyncGenerator<FormPart, void, undefined> {
  const type = request.headers.get('content-type') ?? ''
  const boundary = getMultipartBoundary(type)?.trim() ?? ''
  if (!BOUNDARY_FORM.test(boundary)) throw invalid('its content type names no boundary')
  if (request.body === null)
    throw new ApiError('missing_field', { message: 'The body is missing.' })
  const parser = new MultipartParser(boundary, {
    maxFileSize: limits.maxPartBytes,
    maxTotalSize: limits.maxTotalBytes,
    maxParts: limits.maxParts,
  })
  const reader = request.body.getReader()
  let fields = 0
  try {
    for (;;) {
      const { done, value } = await readChunk(reader)
      if (done) break
      for (const part of parser.write(value)) {
        yield toFormPart(part)
        fields += 1
      }
    }
    if (!isWhole(parser)) throw invalid('it ends before its last boundary')
  } catch (error) {
    // What stands behind the last boundary is of no use to anybody (RFC 2046, 5.1.1).
    if (error instanceof MultipartParseError && isWhole(parser)) return
    throw toApiError(error, limits, fields + 1)
  } finally {
    // Unread bytes are not waited for: the connection ends with the answer.
    reader.cancel().catch(() => {})
  }
}

async function readChunk(reader: ReadableStreamDefaultReader<Uint8Array>) {
  try {
    return await reader.read()
  } catch {
    throw invalid('its sender went away')
  }
}

function isWhole(parser: MultipartParser): boolean {
  try {
    parser.finish()
    return true
  } catch {
    return false
  }
}

function toFormPart(part: MultipartPart): FormPart {
  let name: string | undefined
  try {
    name = part.name
  } catch {
    throw invalid('the headers of a field are no UTF-8')
  }
  if (name === undefined) throw invalid('a field has no name')
  const field = name
  const { size } = part
  return {
    name,
    size,
    bytes() {
      const { bytes } = part
      // The parser still has the pieces, which would be a second copy in memory until the next field.
      part.content.length = 0
      return bytes
    },
    text() {
      try {
        return part.text
      } catch {
        const param = field.slice(0, MAX_PARAM_LENGTH)
        throw new ApiError('invalid_request', { message: `${param}: must be UTF-8.`, param })
      }
    },
  }
}

function toApiError(error: unknown, limits: MultipartLimits, place: number): unknown {
  if (error instanceof MaxFileSizeExceededError) {
    return tooLarge(`Field ${place} of the form is larger than ${limits.maxPartBytes} bytes.`)
  }
  if (error instanceof MaxTotalSizeExceededError) {
    return tooLarge(`The form is larger than ${limits.maxTotalBytes} bytes.`)
  }
  if (error instanceof MaxPartsExceededError) {
    return tooLarge(`The form has more than ${limits.maxParts} fields.`)
  }
  return error instanceof MultipartParseError ? invalid(`field ${place} cannot be read`) : error
}

function tooLarge(message: string): ApiError {
  return new ApiError('payload_too_large', { message })
}

function invalid(why: string): ApiError {
  return new ApiError('invalid_multipart', {
    message: `The body is not valid multipart/form-data: ${why}.`,
  })
}
