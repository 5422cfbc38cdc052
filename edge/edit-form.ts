import type { z } from '@hono/zod-openapi'
import { ApiError } from './errors.ts'
import { MAX_INPUTS, MAX_INPUT_BYTES } from './input-contract.ts'
import { readForm } from './multipart.ts'
import type { FormPart } from './multipart.ts'
import { MAX_PARAM_LENGTH, toFieldError } from './openapi.ts'
import type { Intake } from './take-inputs.ts'
import { TEXT_FORM } from './text-contract.ts'
import { openaiEditFields } from './wire/openai.ts'

/** All of a form: the largest body that Cloudflare lets through to a Worker on most plans. */
const MAX_FORM_BYTES = 100_000_000
/** The longest prompt, in any alphabet. */
const MAX_TEXT_BYTES = 65_536
/** The pictures and several times the fields that the call knows. */
const MAX_PARTS = 64

export type EditFields = z.output<typeof openaiEditFields>

/** Fields so far, checked as far as they came. */
const earlyFields = openaiEditFields.partial()
export type EarlyFields = z.output<typeof earlyFields>

/**
 * Reads the form of OpenAI's editing call and hands its pictures to the intake, one after the other, as they come.
 *
 * @param admit is asked before the first picture is taken in, with the fields that stood before it, if any did
 * @throws ApiError for the first field that breaks a rule; the rest of the body is not read
 */
export async function readEditForm(
  request: Request,
  intake: Intake,
  admit: (fields: EarlyFields) => Promise<void>,
): Promise<EditFields> {
  refuseOther(request)
  const fields = new Map<string, string>()
  const limits = {
    maxPartBytes: MAX_INPUT_BYTES,
    maxTotalBytes: MAX_FORM_BYTES,
    maxParts: MAX_PARTS,
  }
  for await (const part of readForm(request, limits)) {
    if (part.name === 'mask') throw maskRefused()
    if (part.name !== 'image' && part.name !== 'image[]') {
      noteField(fields, part)
      continue
    }
    const place = intake.inputs.images.length
    if (place === 0 && fields.size > 0) await admit(check(earlyFields, fields))
    await intake.add(
      part.name === 'image' && place === 0 ? 'image' : `image[${place}]`,
      part.bytes(),
    )
  }
  const checked = check(openaiEditFields, fields)
  if (intake.inputs.images.length > 0) return checked
  throw new ApiError('missing_field', { message: 'image is missing.', param: 'image' })
}

/** What cannot be a form of the call, by its headers alone. */
function refuseOther(request: Request): void {
  const type = request.headers.get('content-type')
  if (type !== null && !/^multipart\/form-data *(;|$)/i.test(type)) {
    throw new ApiError('unsupported_media_type', {
      message: 'The body must be multipart/form-data.',
    })
  }
  if (type === null || request.body === null) {
    throw new ApiError('missing_field', { message: 'The body is missing.' })
  }
  if (Number(request.headers.get('content-length') ?? 0) > MAX_FORM_BYTES) {
    throw new ApiError('payload_too_large', {
      message: `The form is larger than ${MAX_FORM_BYTES} bytes.`,
    })
  }
}

function noteField(fields: Map<string, string>, part: FormPart): void {
  const param = part.name.slice(0, MAX_PARAM_LENGTH)
  if (part.size > MAX_TEXT_BYTES) {
    throw new ApiError('payload_too_large', {
      message: `${param}: is larger than ${MAX_TEXT_BYTES} bytes.`,
      param,
    })
  }
  // Of a field without a meaning only the name matters.
  const isUsed = Object.hasOwn(openaiEditFields.shape, part.name)
  if (isUsed && fields.has(part.name)) {
    throw new ApiError('invalid_request', { message: `${param}: stands there twice.`, param })
  }
  fields.set(part.name, isUsed ? part.text() : '')
}

function check<Schema extends z.ZodType>(
  schema: Schema,
  fields: Map<string, string>,
): z.output<Schema> {
  const parsed = schema.safeParse(Object.fromEntries(fields))
  if (parsed.success) return parsed.data
  throw toFieldError(parsed.error)
}

/** To overlook it would change what the caller gets. */
function maskRefused(): ApiError {
  return new ApiError('invalid_request', {
    message: 'mask: is not offered; say in the prompt what is to change and what is to stay.',
    param: 'mask',
  })
}

/** The form, for the document; a schema that validates would read it whole. */
export const EDIT_FORM = {
  type: 'object' as const,
  required: ['image', 'prompt'],
  additionalProperties: true,
  properties: {
    image: {
      type: 'array' as const,
      minItems: 1,
      maxItems: MAX_INPUTS,
      items: { type: 'string' as const, format: 'binary' },
      description: `Pictures to work from, as \`image\` or \`image[]\`: PNG, JPEG or WebP of up to ${MAX_INPUT_BYTES} bytes each and ${MAX_FORM_BYTES} in all.`,
    },
    prompt: { type: 'string' as const },
    model: { type: 'string' as const, default: 'glm-image' },
    n: { type: 'integer' as const },
    size: {
      type: 'string' as const,
      description: '`auto`, the default: that of the first picture, or the nearest offered.',
    },
    response_format: { type: 'string' as const, enum: ['url', 'b64_json'] },
    output_format: { type: 'string' as const, enum: ['png', 'webp', 'jpeg', 'avif'] },
    seed: { type: 'integer' as const },
    ...TEXT_FORM,
  },
}
