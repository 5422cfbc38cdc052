import { z } from '@hono/zod-openapi'
import { isTerminal } from '../../db/job-state.ts'
import type { JobRow, JobWithOutputs } from '../../db/jobs.ts'
import { MAX_IMAGES, modelName, prompt, text } from '../contract.ts'
import { ERRORS } from '../errors.ts'
import { TEXT_FIELDS, textFields, wireProof } from '../text-contract.ts'
import { requestIdOfJob, signOutputs, toWireBilling } from './native.ts'
import type { UrlDeps } from './native.ts'

/**
 * Body of Z.ai's image calls. Its SDKs send more fields than its page lists; what we do not act on is let
 * through and named in the answer.
 */
export const zaiImageBody = z
  .looseObject({
    model: modelName,
    prompt,
    size: z.string().nullish(),
    width: z.int().min(1).nullish().openapi({ description: 'With height, in place of size.' }),
    height: z.int().min(1).nullish(),
    quality: z.enum(['hd', 'standard']).nullish(),
    n: z.int().min(1).max(MAX_IMAGES).nullish(),
    response_format: z.literal('url', { error: 'only url is offered here' }).nullish(),
    user_id: text.min(6).max(128).nullish(),
    request_id: text.min(1).max(200).nullish(),
    ...textFields,
  })
  .openapi('ZaiImageRequest')
export type ZaiImageBody = z.output<typeof zaiImageBody>

/** Fields that the call acts on or returns. */
const USED_FIELDS: ReadonlySet<string> = new Set([
  'model',
  'prompt',
  'size',
  'width',
  'height',
  'n',
  'response_format',
  'user_id',
  'request_id',
  ...TEXT_FIELDS,
])

const billed = {
  billed: z.boolean().nullable(),
  billed_reason: z.string().nullable(),
  cost: z.string(),
}

const link = z.strictObject({
  url: z.url(),
  expires_at: z.iso.datetime(),
  sha256: z.string(),
  ...wireProof,
})

export const zaiImageAnswer = z
  .strictObject({
    created: z.int(),
    id: z.string(),
    request_id: z.string(),
    data: z.array(link),
    content_filter: z.array(z.strictObject({ role: z.string(), level: z.int() })),
    ignored_fields: z.array(z.string()),
    ...billed,
  })
  .openapi('ZaiImageAnswer')

const taskStatus = z.enum(['PROCESSING', 'SUCCESS', 'FAIL'])

export const zaiTask = z
  .strictObject({
    model: z.string(),
    id: z.string(),
    request_id: z.string(),
    task_status: taskStatus,
    ignored_fields: z.array(z.string()),
  })
  .openapi('ZaiTask')

export const zaiTaskResult = z
  .strictObject({
    model: z.string(),
    id: z.string(),
    request_id: z.string(),
    task_status: taskStatus,
    image_result: z.array(link).optional(),
    error: z
      .strictObject({ code: z.string().regex(/^\d+$/), message: z.string(), type: z.string() })
      .optional(),
    ...billed,
  })
  .openapi('ZaiTaskResult')

/** Longer names are cut, as no answer should grow with its request. */
const MAX_NAME_LENGTH = 100

/** Names of fields that were sent and not acted on, sorted. */
export function ignoredFields(body: object, used: ReadonlySet<string>): string[] {
  return Object.keys(body)
    .filter((name) => !used.has(name))
    .map((name) => name.slice(0, MAX_NAME_LENGTH))
    .toSorted()
}

/** The same for Z.ai's calls, where `size` goes before width and height. */
export function zaiIgnoredFields(body: ZaiImageBody): string[] {
  const used = new Set(USED_FIELDS)
  if (body.size != null) for (const name of ['width', 'height']) used.delete(name)
  return ignoredFields(body, used)
}

/** The answer of the asynchronous call. */
export function toZaiTask(found: JobWithOutputs, ignored: string[]): z.output<typeof zaiTask> {
  return {
    model: found.job.model,
    id: found.job.id,
    request_id: requestIdOfJob(found) ?? found.job.id,
    task_status: toTaskStatus(found.job),
    ignored_fields: ignored,
  }
}

/** The three words that Z.ai has for a job's state. Pictures that were deleted cannot be had any more. */
function toTaskStatus({ state, deletedAt }: JobRow): z.output<typeof taskStatus> {
  if (!isTerminal(state)) return 'PROCESSING'
  return state === 'succeeded' && deletedAt === null ? 'SUCCESS' : 'FAIL'
}

/** The answer of the synchronous call. */
export async function toZaiAnswer(
  deps: UrlDeps,
  found: JobWithOutputs,
  ignored: string[],
): Promise<z.output<typeof zaiImageAnswer>> {
  return {
    created: Math.floor(found.job.createdAt.getTime() / 1000),
    id: found.job.id,
    request_id: requestIdOfJob(found) ?? found.job.id,
    data: await toLinks(deps, found),
    content_filter: [],
    ignored_fields: ignored,
    ...toZaiBilling(found),
  }
}

/** The answer of the result call. A failed task is a result too, with HTTP status 200. */
export async function toZaiTaskResult(
  deps: UrlDeps,
  found: JobWithOutputs,
): Promise<z.output<typeof zaiTaskResult>> {
  const { job } = found
  const status = toTaskStatus(job)
  return {
    model: job.model,
    id: job.id,
    request_id: requestIdOfJob(found) ?? job.id,
    task_status: status,
    ...(status === 'SUCCESS' ? { image_result: await toLinks(deps, found) } : {}),
    ...(status === 'FAIL' ? { error: toTaskError(job) } : {}),
    ...toZaiBilling(found),
  }
}

/** Clients of this dialect turn the code into a number, so the word goes beside it. */
function toTaskError(job: JobRow): { code: string; message: string; type: string } {
  if (job.state === 'succeeded') {
    return { code: ERRORS.gone.code, message: 'The pictures were deleted.', type: 'gone' }
  }
  return {
    code: ERRORS.generation_failed.code,
    message: job.errorMessage ?? `The job ${job.state}.`,
    type: job.errorCode ?? job.state,
  }
}

async function toLinks(deps: UrlDeps, found: JobWithOutputs) {
  const outputs = await signOutputs(deps, found)
  return outputs.map(({ url, expiresAt, sha256, proof }) => ({
    url,
    expires_at: expiresAt.toISOString(),
    sha256,
    ...proof,
  }))
}

function toZaiBilling(found: JobWithOutputs) {
  const billing = toWireBilling(found)
  return { billed: billing.billed, billed_reason: billing.reason, cost: billing.charged }
}
