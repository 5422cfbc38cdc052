import { z } from '@hono/zod-openapi'
import { TEXT_GUARANTEES, UNBILLED_REASONS } from '../db/text-terms.ts'
import type { TextCheck, TextTerms } from '../db/text-terms.ts'
import { quotedTexts, toWords } from '../db/text-words.ts'
import { ApiError } from './errors.ts'

/** Each further drawing costs as much of a GPU as the first. */
const MAX_RETRIES = 4
const USUAL_RETRIES = 2
/** A poster or a menu has some dozens of texts; what is expected comes back with every picture. */
const MAX_TEXTS = 50
const MAX_TEXT_CHARACTERS = 1_000
/** The longest list, with every letter escaped. */
const MAX_LIST_CHARACTERS = 8_000

const guarantee = z.enum(TEXT_GUARANTEES)
const share = z.number().min(0).max(1)
const retries = z.int().min(0).max(MAX_RETRIES)
const textList = z.array(z.string().min(1).max(MAX_TEXT_CHARACTERS)).min(1).max(MAX_TEXTS)

const ABOUT = {
  text_guarantee:
    'What is done about the texts in the pictures, which are read back by OCR: `report` says what was read, `retry` draws a picture that misses them again and keeps the best, `refund` does not charge a picture that misses them.',
  text_threshold:
    'The share of expected words, 0 to 1, that a picture has to show. By default all.',
  text_retries: `How many times a picture that misses is drawn again; ${USUAL_RETRIES} by default with \`retry\`, 0 with \`refund\`.`,
  text_expected: 'The texts, each of which stands in the prompt. By default those that it quotes.',
}

/** The fields about text of a JSON body. */
export const textFields = {
  text_guarantee: guarantee.nullish().openapi({ description: ABOUT.text_guarantee }),
  text_threshold: share.nullish().openapi({ description: ABOUT.text_threshold }),
  text_retries: retries.nullish().openapi({ description: ABOUT.text_retries }),
  text_expected: textList.nullish().openapi({ description: ABOUT.text_expected }),
}
export const TEXT_FIELDS = Object.keys(textFields)

const decimal = z
  .string()
  .regex(/^(0(\.\d{1,6})?|1(\.0{1,6})?)$/, 'must be a number from 0 to 1')
  .transform(Number)
const digit = z
  .string()
  .regex(/^\d{1,2}$/, 'must be a whole number')
  .transform(Number)
  .pipe(retries)
const jsonList = z
  .string()
  .max(MAX_LIST_CHARACTERS)
  .transform((value, context) => {
    try {
      return JSON.parse(value) as unknown
    } catch {
      context.addIssue('must be a JSON list of texts')
      return z.NEVER
    }
  })
  .pipe(textList)

/** The same where all fields are text: in forms. */
export const textFormFields = {
  text_guarantee: guarantee.optional(),
  text_threshold: decimal.optional(),
  text_retries: digit.optional(),
  text_expected: jsonList.optional(),
}

const list = {
  description: `${ABOUT.text_expected} A JSON list, in ASCII by \\u escapes.`,
  type: 'string',
} as const
const numeral = (description: string) => ({ description, type: 'string' }) as const

/** The fields of a form, for the document. */
export const TEXT_FORM = {
  text_guarantee: {
    type: 'string' as const,
    enum: [...TEXT_GUARANTEES],
    description: ABOUT.text_guarantee,
  },
  text_threshold: numeral(ABOUT.text_threshold),
  text_retries: numeral(ABOUT.text_retries),
  text_expected: list,
}

/** The same as headers, for clients that send no fields but their own. A field of the body goes before its header. */
export const textHeaders = {
  'x-text-guarantee': guarantee.optional().openapi({ description: ABOUT.text_guarantee }),
  'x-text-threshold': decimal.optional().openapi(numeral(ABOUT.text_threshold)),
  'x-text-retries': digit.optional().openapi(numeral(ABOUT.text_retries)),
  'x-text-expected': jsonList.optional().openapi(list),
}

interface TextFields {
  text_guarantee?: z.output<typeof guarantee> | null | undefined
  text_threshold?: number | null | undefined
  text_retries?: number | null | undefined
  text_expected?: string[] | null | undefined
}
interface TextHeaders {
  'x-text-guarantee'?: z.output<typeof guarantee> | undefined
  'x-text-threshold'?: number | undefined
  'x-text-retries'?: number | undefined
  'x-text-expected'?: string[] | undefined
}

/**
 * The terms of an order about the texts in its pictures, by body and headers; empty where it has none.
 *
 * @throws ApiError where a field has no meaning beside the others, and where a redrawing or a refund is wished for
 *   pictures that are to show no text: whoever forgot the quotes should hear of it before paying
 */
export function textTermsOf(
  prompt: string,
  body: TextFields,
  headers: TextHeaders,
): { text?: TextTerms } {
  const wish = body.text_guarantee ?? headers['x-text-guarantee'] ?? 'off'
  const threshold = body.text_threshold ?? headers['x-text-threshold']
  const wanted = body.text_retries ?? headers['x-text-retries']
  const listed = body.text_expected ?? headers['x-text-expected']
  if (wish === 'off') {
    if (threshold !== undefined) throw pointless('text_threshold', wish)
    if (wanted !== undefined) throw pointless('text_retries', wish)
    if (listed !== undefined) throw pointless('text_expected', wish)
    return {}
  }
  if (wish === 'report' && wanted !== undefined) throw pointless('text_retries', wish)
  if (wish === 'retry' && wanted === 0) throw pointless('text_retries: 0', wish)
  const expected = listed ?? quotedTexts(prompt).slice(0, MAX_TEXTS)
  if (listed !== undefined) requireInPrompt(prompt, listed)
  if (expected.length === 0 && wish !== 'report') {
    throw new ApiError('invalid_request', {
      message: `text_guarantee: ${wish} needs a text; put it in quotes in the prompt, or into text_expected.`,
      param: 'text_guarantee',
    })
  }
  const usual = wish === 'retry' ? USUAL_RETRIES : 0
  return {
    text: { guarantee: wish, threshold: threshold ?? 1, retries: wanted ?? usual, expected },
  }
}

function pointless(field: string, wish: string): ApiError {
  const param = field.split(':')[0] ?? field
  return new ApiError('invalid_request', {
    message: `${field} has no meaning with text_guarantee ${wish}.`,
    param,
  })
}

/** A text that nobody asked to be drawn would make every picture a miss. */
function requireInPrompt(prompt: string, listed: readonly string[]): void {
  const words = new Set(toWords(prompt))
  for (const [index, text] of listed.entries()) {
    const param = `text_expected[${index}]`
    const own = toWords(text)
    const rule =
      own.length === 0
        ? 'has no word'
        : own.every((word) => words.has(word))
          ? null
          : 'does not stand in the prompt'
    if (rule !== null)
      throw new ApiError('invalid_request', { message: `${param}: ${rule}.`, param })
  }
}

export const wireTextTerms = z
  .strictObject({
    guarantee: z.enum(['report', 'retry', 'refund']),
    threshold: share,
    retries: z.int(),
    /** Empty where nothing is compared, and once the job was deleted. */
    expected: z.array(z.string()),
  })
  .openapi('TextTerms')

const wireTextCheck = z
  .strictObject({
    /** `failed`: the picture could not be read, and `error` says why. */
    status: z.enum(['checked', 'failed', 'nothing_expected']),
    error: z.string().nullable(),
    passed: z.boolean().nullable(),
    word_accuracy: share.nullable(),
    ned: share.nullable(),
    texts: z.array(
      z.strictObject({ expected: z.string(), matched: z.boolean(), missing: z.array(z.string()) }),
    ),
    read: z.array(z.string()),
    draws: z.int(),
    engine: z.string(),
    engine_version: z.string(),
    duration_ms: z.int(),
  })
  .openapi('TextCheck')

/** What a picture of any dialect says of its texts; absent where nobody asked. */
export const wireProof = {
  text: wireTextCheck.optional(),
  /** Why this picture is not charged although it is delivered. */
  unbilled_reason: z.enum(UNBILLED_REASONS).optional(),
}

/** The proof that goes with a picture. */
export function toProof(output: {
  textCheck: TextCheck | null
  unbilledReason: (typeof UNBILLED_REASONS)[number] | null
}): z.output<z.ZodObject<typeof wireProof>> {
  const { textCheck, unbilledReason } = output
  return {
    ...(textCheck && {
      text: {
        ...textCheck,
        texts: textCheck.texts.map(({ missing, ...match }) => ({
          ...match,
          missing: [...missing],
        })),
        read: [...textCheck.read],
      },
    }),
    ...(unbilledReason && { unbilled_reason: unbilledReason }),
  }
}
