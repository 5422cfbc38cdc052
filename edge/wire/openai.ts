import { z } from '@hono/zod-openapi'
import { formatUsd } from '../../billing/money.ts'
import type { JobWithOutputs } from '../../db/jobs.ts'
import type { CheckedOrder } from '../check-order.ts'
import { MAX_IMAGES, MAX_SEED, imageFormat, modelName, prompt } from '../contract.ts'
import type { modelInfo } from '../contract.ts'
import type { ObjectStore, StoredObject } from '../objects.ts'
import { TEXT_FIELDS, textFields, textFormFields, wireProof } from '../text-contract.ts'
import { signOutputs, toWireBilling } from './native.ts'
import type { UrlDeps } from './native.ts'

/**
 * Body of OpenAI's images call. Fields without a meaning for this model are let through and named in the
 * answer, because common wrappers always send them.
 */
export const openaiImageBody = z
  .looseObject({
    prompt,
    model: modelName.default('glm-image'),
    n: z.int().min(1).max(MAX_IMAGES).nullish(),
    size: z.string().nullish(),
    response_format: z.enum(['url', 'b64_json']).nullish(),
    output_format: imageFormat.nullish(),
    seed: z.int().min(0).max(MAX_SEED).nullish(),
    stream: z.literal(false, { error: 'streaming is not offered; leave it out' }).nullish(),
    ...textFields,
  })
  .openapi('OpenAiImageRequest')

const digits = z.string().regex(/^\d{1,10}$/, 'must be a whole number')

/** The fields of OpenAI's editing call beside its pictures; in a form all are text. */
export const openaiEditFields = z.looseObject({
  ...openaiImageBody.shape,
  n: digits.transform(Number).pipe(z.int().min(1).max(MAX_IMAGES)).optional(),
  seed: digits.transform(Number).pipe(z.int().min(0).max(MAX_SEED)).optional(),
  stream: z.literal('false', { error: 'streaming is not offered; leave it out' }).optional(),
  ...textFormFields,
})

/** Fields that the call acts on. */
export const OPENAI_USED_FIELDS: ReadonlySet<string> = new Set([
  'prompt',
  'model',
  'n',
  'size',
  'response_format',
  'output_format',
  'seed',
  'stream',
  ...TEXT_FIELDS,
])

const image = z.strictObject({
  url: z.url().optional(),
  b64_json: z.string().optional(),
  expires_at: z.iso.datetime(),
  sha256: z.string(),
  ...wireProof,
})

export const openaiImageAnswer = z
  .strictObject({
    created: z.int(),
    data: z.array(image),
    output_format: imageFormat,
    size: z.string(),
    id: z.string(),
    billed: z.boolean().nullable(),
    billed_reason: z.string().nullable(),
    cost: z.string(),
    ignored_fields: z.array(z.string()),
  })
  .openapi('OpenAiImageAnswer')

/** The answer of the images call with links. */
export async function toOpenAiAnswer(
  deps: UrlDeps,
  found: JobWithOutputs,
  ignored: string[],
): Promise<z.output<typeof openaiImageAnswer>> {
  const { job } = found
  const links = await signOutputs(deps, found)
  const billing = toWireBilling(found)
  return {
    created: Math.floor(job.createdAt.getTime() / 1000),
    data: links.map(({ url, expiresAt, sha256, proof }) => ({
      url,
      expires_at: expiresAt.toISOString(),
      sha256,
      ...proof,
    })),
    output_format: job.format,
    size: `${job.width}x${job.height}`,
    id: job.id,
    billed: billing.billed,
    billed_reason: billing.reason,
    cost: billing.charged,
    ignored_fields: ignored,
  }
}

/** The day on which the model was published, as Unix seconds. */
const MODEL_CREATED = Date.UTC(2026, 0, 14) / 1000

/** A model as OpenAI shows one, with what it is good for: sizes are those that the loaded checkpoint declares. */
export function toModelInfo({ entry, price }: CheckedOrder): z.output<typeof modelInfo> {
  return {
    id: entry.model,
    object: 'model',
    created: MODEL_CREATED,
    owned_by: 'zai-org',
    sizes: {
      default: entry.size.default,
      recommended: [...entry.size.recommended],
      min_side: entry.size.minSide,
      max_side: entry.size.maxSide,
      multiple_of: entry.size.multipleOf,
      max_pixels: entry.size.maxPixels,
    },
    max_input_images: entry.maxInputs,
    price_per_image: formatUsd(price.unitMicros),
    notice: entry.notice,
    weights_hash: entry.weightsHash,
  }
}

/** What became of a stream after the answer had begun. */
export interface StreamEnds {
  failed(error: unknown): void
  /** The caller did not read it to its end. */
  canceled(): void
}

/**
 * The same answer as JSON text with each link replaced by the picture in base 64. Ten large pictures are more
 * than a Worker may hold, so they pass through piece by piece. The first one is opened before the answer
 * begins, as its status cannot be taken back.
 *
 * @returns null when the first picture is not in the store
 * @throws the store's error when it cannot be reached
 */
export async function encodeOpenAiAnswer(
  objects: ObjectStore,
  answer: z.output<typeof openaiImageAnswer>,
  { outputs }: JobWithOutputs,
  ends: StreamEnds,
): Promise<ReadableStream<Uint8Array> | null> {
  const keys = new Map(outputs.map((output) => [output.sha256, output.objectKey]))
  const { data, ...rest } = answer
  const open = (sha256: string) => objects.read(keys.get(sha256) ?? '')
  const first = data[0] === undefined ? null : await open(data[0].sha256)
  if (first === null) return null
  async function* pieces() {
    for (const [index, { url: _url, ...image }] of data.entries()) {
      yield `${index === 0 ? '{"data":[' : ','}{"b64_json":"`
      const stored = index === 0 ? first : await open(image.sha256)
      if (!stored) throw new Error(`the object of picture ${image.sha256} is missing`)
      yield* toBase64(stored.body)
      yield `",${JSON.stringify(image).slice(1)}`
    }
    yield `],${JSON.stringify(rest).slice(1)}`
  }
  return toStream(pieces(), first, ends)
}

/** Base 64 works on groups of three bytes; pieces are cut at a multiple so that they can be joined. */
const PIECE_BYTES = 3 * 8_192

async function* toBase64(stream: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  let carry = new Uint8Array()
  for await (const chunk of stream) {
    const bytes = new Uint8Array(carry.length + chunk.length)
    bytes.set(carry)
    bytes.set(chunk, carry.length)
    const whole = bytes.length - (bytes.length % 3)
    for (let at = 0; at < whole; at += PIECE_BYTES) {
      yield btoa(String.fromCharCode(...bytes.subarray(at, Math.min(at + PIECE_BYTES, whole))))
    }
    carry = bytes.slice(whole)
  }
  yield btoa(String.fromCharCode(...carry))
}

function toStream(
  pieces: AsyncGenerator<string>,
  first: StoredObject,
  ends: StreamEnds,
): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder()
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      try {
        const { done, value } = await pieces.next()
        if (done) controller.close()
        else controller.enqueue(encoder.encode(value))
      } catch (error) {
        ends.failed(error)
        throw error
      }
    },
    async cancel(reason) {
      ends.canceled()
      await pieces.return(undefined)
      // Pieces that never began have not taken the first picture's stream, and would leave it open.
      if (!first.body.locked) await first.body.cancel(reason)
    },
  })
}
