import { z } from '@hono/zod-openapi'
import { jobInputs, wireInput } from './input-contract.ts'
import { textFields, textHeaders, wireProof, wireTextTerms } from './text-contract.ts'
import { MAX_URL_CHARACTERS } from './webhook-address.ts'

/** Prompts longer than this are refused; the model's own limit on tokens is not far above. */
export const MAX_PROMPT_LENGTH = 8_000
/** Images of one job; they are drawn one after the other. */
export const MAX_IMAGES = 10
/** 2^32 - 1. */
export const MAX_SEED = 4_294_967_295
/** Below it guidance does nothing, and single precision ends somewhere. */
const MIN_GUIDANCE = 0.001
/** Metadata comes back with every answer about the job, so it stays small. */
const MAX_METADATA_FIELDS = 16
/** Idempotency keys are remembered for ever, so their length is bounded. */
const MAX_IDEMPOTENCY_LENGTH = 255

export const imageFormat = z.enum(['png', 'webp', 'jpeg', 'avif'])
export const jobState = z.enum([
  'accepted',
  'queued',
  'running',
  'succeeded',
  'failed',
  'canceled',
  'expired',
])

/** US dollars as a decimal text with six digits, so that no client rounds it. */
const usd = z.string().regex(/^-?\d+\.\d{6}$/)
const instant = z.iso.datetime()

/** Text that the database can hold: no U+0000 and no half of a surrogate pair. */
export const text = z
  .string()
  .refine(
    (value) => value.isWellFormed() && !value.includes('\0'),
    'must be valid Unicode without NUL',
  )

export const prompt = text
  .max(MAX_PROMPT_LENGTH)
  .refine((value) => value.trim() !== '', 'must not be empty')

/** A model's name as a caller writes it; a refusal repeats it. */
export const modelName = text.max(100)

/** How many rows a page may have. */
export function pageLimit(usual: number, max: number) {
  const error = `must be a whole number from 1 to ${max}`
  return z.coerce
    .number({ error })
    .int({ error })
    .min(1, { error })
    .max(max, { error })
    .default(usual)
}

/** What every call that makes a job may carry beside its body. */
export const createHeaders = z.object({
  'idempotency-key': z
    .string()
    .min(1)
    .max(MAX_IDEMPOTENCY_LENGTH)
    .optional()
    .openapi({ description: 'A repeat under the same key is answered with the first job.' }),
  ...textHeaders,
})

/** The caller's own notes on a job. The library drops the name `__proto__` in silence, so it is refused before. */
const metadata = z
  .unknown()
  .refine(
    (value) => typeof value !== 'object' || value === null || !Object.hasOwn(value, '__proto__'),
    'must not have a field named __proto__',
  )
  .pipe(
    z
      .record(text.max(64), text.max(512))
      .refine(
        (value) => Object.keys(value).length <= MAX_METADATA_FIELDS,
        `must have at most ${MAX_METADATA_FIELDS} fields`,
      ),
  )
  .openapi({
    type: 'object',
    additionalProperties: { type: 'string', maxLength: 512 },
    maxProperties: MAX_METADATA_FIELDS,
  })

/** `POST /v1/jobs` */
export const createJobBody = z
  .strictObject({
    model: modelName.default('glm-image'),
    prompt,
    images: jobInputs.optional(),
    size: z.string().optional().openapi({
      example: '1280x1280',
      description:
        'By default that of the first of `images`, or the nearest offered; else that of the model.',
    }),
    n: z.int().min(1).max(MAX_IMAGES).default(1),
    seed: z.int().min(0).max(MAX_SEED).optional(),
    steps: z.int().min(1).max(100).optional(),
    guidance_scale: z
      .number()
      .min(0)
      .max(20)
      .refine(
        (value) => value === 0 || value >= MIN_GUIDANCE,
        `must be 0 or at least ${MIN_GUIDANCE}`,
      )
      .optional(),
    output_format: imageFormat.default('png'),
    priority: z.enum(['standard', 'batch']).default('standard').openapi({
      description: '`batch` may take a day, and costs what the price book says for it.',
    }),
    // Its rule is that of every webhook address, which says what is wrong.
    webhook_url: text.max(MAX_URL_CHARACTERS).openapi({ format: 'uri' }).optional(),
    ...textFields,
    metadata: metadata.optional(),
  })
  .openapi('CreateJob')

export const jobOutput = z
  .strictObject({
    index: z.int(),
    url: z.url(),
    expires_at: instant,
    sha256: z.string(),
    size_bytes: z.int(),
    content_type: z.string(),
    width: z.int(),
    height: z.int(),
    seed: z.int(),
    ...wireProof,
  })
  .openapi('JobOutput')

export const billing = z
  .strictObject({
    /** Null until the job has ended. */
    billed: z.boolean().nullable(),
    reason: z.string().nullable(),
    currency: z.literal('USD'),
    unit_price: usd,
    held: usd,
    charged: usd,
  })
  .openapi('Billing')

export const wireJob = z
  .strictObject({
    id: z.string(),
    object: z.literal('job'),
    state: jobState,
    model: z.string(),
    prompt: z.string().nullable(),
    size: z.string(),
    n: z.int(),
    seed: z.int(),
    output_format: imageFormat,
    text_guarantee: wireTextTerms.nullable(),
    inputs: z.array(wireInput),
    outputs: z.array(jobOutput),
    billing,
    progress: z.record(z.string(), z.unknown()).nullable(),
    attempt: z.int(),
    error: z.strictObject({ code: z.string(), message: z.string() }).nullable(),
    metadata: z.record(z.string(), z.string()),
    request_id: z.string().nullable(),
    created_at: instant,
    started_at: instant.nullable(),
    finished_at: instant.nullable(),
    deadline_at: instant,
    deleted_at: instant.nullable(),
  })
  .openapi('Job')
export type WireJob = z.output<typeof wireJob>

export const jobPage = z
  .strictObject({
    object: z.literal('list'),
    data: z.array(wireJob),
    has_more: z.boolean(),
    next_before: z.string().nullable(),
  })
  .openapi('JobPage')

export const cancelAnswer = z
  .strictObject({ id: z.string(), outcome: z.enum(['canceled', 'requested', 'finished']) })
  .openapi('CancelAnswer')

export const modelInfo = z
  .strictObject({
    id: z.string(),
    object: z.literal('model'),
    created: z.int(),
    owned_by: z.string(),
    sizes: z.strictObject({
      default: z.string(),
      recommended: z.array(z.string()),
      min_side: z.int(),
      max_side: z.int(),
      multiple_of: z.int(),
      max_pixels: z.int(),
    }),
    max_input_images: z.int(),
    price_per_image: usd,
    notice: z.string().nullable(),
    weights_hash: z.string().nullable(),
  })
  .openapi('Model')

export const modelList = z
  .strictObject({ object: z.literal('list'), data: z.array(modelInfo) })
  .openapi('ModelList')

/** What an error says to machines beside its code; each member only where it applies. */
export const errorData = z.strictObject({
  reason: z.enum(['rate', 'concurrency', 'credit', 'budget']).optional(),
  scope: z.enum(['key', 'team', 'org']).optional(),
  period: z.enum(['day', 'month']).optional(),
  limit: z.union([usd, z.int()]).optional(),
  spent: usd.optional(),
  held: usd.optional(),
  amount: usd.optional(),
  inflight: z.int().optional(),
  resets_at: instant.nullable().optional(),
  resets_in_seconds: z.int().optional(),
  task_id: z.string().optional(),
  state: jobState.optional(),
  error_code: z.string().nullable().optional(),
  billed: z.boolean().optional(),
  billed_reason: z.string().nullable().optional(),
})

/** The hybrid error body: problem details and the `error` member that SDKs read. */
export const errorBody = errorData
  .extend({
    type: z.string(),
    title: z.string(),
    status: z.int(),
    detail: z.string(),
    request_id: z.string(),
    error: z.strictObject({
      message: z.string(),
      type: z.string(),
      param: z.string().nullable(),
      code: z.string().regex(/^\d+$/),
    }),
  })
  .openapi('Error')

/** `POST /v1/quote` */
export const quoteBody = createJobBody
  .pick({ model: true, size: true, n: true, priority: true, text_guarantee: true })
  .openapi('QuoteRequest')

export const quoteAnswer = z
  .strictObject({
    object: z.literal('quote'),
    model: z.string(),
    size: z.string(),
    n: z.int(),
    priority: z.enum(['standard', 'batch']),
    currency: z.literal('USD'),
    sku: z.string(),
    price_version: z.string(),
    /** The contract that gives the price; null at list price. */
    contract: z.string().nullable(),
    list_price: usd,
    /** The most that one image costs. */
    unit_price: usd,
    /** What would be held: unit price times n. */
    total: usd,
    /** What is charged when every picture is delivered and misses its texts. */
    total_if_text_missed: usd,
    /** What key, team and organisation can still spend, the least of them; null without a limit. */
    available: usd.nullable(),
    is_affordable: z.boolean(),
  })
  .openapi('Quote')

export const jobIdParam = z.object({ job_id: z.string().openapi({ example: 'job_01k...' }) })
