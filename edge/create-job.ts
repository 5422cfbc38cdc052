import { reserveJob } from '../billing/reserve.ts'
import type { NewJob, ReserveRefusal } from '../billing/reserve.ts'
import { formatUsd } from '../billing/money.ts'
import { toHex } from '../db/derive.ts'
import { createId } from '../db/ids.ts'
import type { KeyPrincipal } from '../db/keys.ts'
import { checkSize } from './catalogue.ts'
import type { CatalogueEntry } from './catalogue.ts'
import type { Deps } from './deps.ts'
import { ApiError, ZAI_STATUS } from './errors.ts'
import { ADDRESS_REFUSALS, checkWebhookUrl } from './webhook-address.ts'

/** A request for pictures, whatever dialect it came in. */
export interface ImageOrder {
  dialect: NewJob['dialect']
  model: string
  prompt: string
  /** Absent: the model's default. */
  size?: string | undefined
  n: number
  /** Absent: drawn at random. */
  seed?: number | undefined
  steps?: number | undefined
  guidanceScale?: number | undefined
  format: NewJob['format']
  webhookUrl?: string | undefined
  idempotencyKey: string | null
  /** The caller waits for the pictures, so that a lost connection may be taken up again. */
  isSync: boolean
  /** Returned with the job: request_id, user_id, metadata. */
  callerFields: Record<string, unknown>
}

export interface CreatedJob {
  jobId: string
  orgId: string
  keyId: string
  /** By which an equal call may take this one up; null when the caller repeats under a key of its own. */
  foldHash: string | null
  /** The job existed: this call repeated an earlier one. */
  replayed: boolean
}

/** A job that found no worker in this time is expired and costs nothing. */
const JOB_DEADLINE_SECONDS = 3_600

/**
 * Accepts an order: price, reservation and job row in one database round trip, then the doorbell.
 *
 * @throws ApiError naming what is wrong or what refused it; nothing is held then
 */
export async function createJob(
  deps: Deps,
  principal: KeyPrincipal,
  order: ImageOrder,
): Promise<CreatedJob> {
  const { entry, width, height } = await checkOrder(deps, order)
  const { orgId, keyId } = principal
  const requestHash = await hashOrder(order)
  const foldHash = order.isSync && order.idempotencyKey === null ? requestHash : null
  const lost = foldHash === null ? null : deps.lostCalls.reclaim(keyId, foldHash)
  if (lost !== null) return { jobId: lost, orgId, keyId, foldHash, replayed: true }
  const reserved = await reserveJob(deps.db, {
    unitMicros: entry.price.unitMicros,
    priceVersionId: entry.price.priceVersionId,
    job: {
      id: createId('job'),
      orgId,
      teamId: principal.teamId,
      keyId,
      idempotencyKey: order.idempotencyKey,
      requestHash,
      dialect: order.dialect,
      model: order.model,
      prompt: order.prompt,
      width,
      height,
      n: order.n,
      seed: order.seed ?? randomSeed(),
      steps: order.steps ?? null,
      guidanceScale: order.guidanceScale ?? null,
      format: order.format,
      callerFields: order.callerFields,
      webhookUrl: order.webhookUrl ?? null,
      deadlineSeconds: JOB_DEADLINE_SECONDS,
    },
  })
  if (!reserved.ok) throw toError(reserved, order.dialect)
  if (!reserved.replayed) {
    const { jobId, outboxId } = reserved
    // The sweep sends it if this fails, so the answer does not wait for the queue.
    deps.background(deps.queue.send({ outboxId, jobId, orgId }))
  }
  return { jobId: reserved.jobId, orgId, keyId, foldHash, replayed: reserved.replayed }
}

/** Model, size and webhook address, each with its rule in the error. */
async function checkOrder(
  deps: Deps,
  order: ImageOrder,
): Promise<{ entry: CatalogueEntry; width: number; height: number }> {
  const entry = await deps.catalogue.find(deps.db, order.model)
  if (!entry) {
    throw new ApiError('unknown_model', {
      message: `model "${order.model}" is not offered.`,
      param: 'model',
    })
  }
  const size = checkSize(entry.size, order.size ?? entry.size.default)
  if (!size.ok) throw new ApiError('invalid_request', { message: size.message, param: 'size' })
  if (order.webhookUrl !== undefined) {
    const verdict = checkWebhookUrl(order.webhookUrl, { allowLoopback: deps.allowLoopbackWebhooks })
    if (!verdict.ok) {
      throw new ApiError('invalid_request', {
        message: `webhook_url: ${ADDRESS_REFUSALS[verdict.reason]}.`,
        param: 'webhook_url',
      })
    }
  }
  return { entry, width: size.width, height: size.height }
}

/** Equal for orders that ask for the same, whether the caller waits or not. */
async function hashOrder(order: ImageOrder): Promise<string> {
  const { idempotencyKey: _key, isSync: _isSync, callerFields, ...asked } = order
  const text = JSON.stringify([sortFields(asked), sortFields(callerFields)])
  const bytes = new TextEncoder().encode(text)
  return toHex(new Uint8Array(await crypto.subtle.digest('SHA-256', bytes)))
}

/** Name and value pairs in one order, through every level: clients may build the same object another way. */
function sortFields(value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value
  return Object.entries(value)
    .toSorted(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, inner]) => [name, sortFields(inner)])
}

function randomSeed(): number {
  return crypto.getRandomValues(new Uint32Array(1))[0] ?? 0
}

/** The error of a refusal. */
function toError(refusal: ReserveRefusal, dialect: NewJob['dialect']): ApiError {
  switch (refusal.reason) {
    case 'key_inactive':
      return new ApiError('key_invalid')
    case 'idempotency_mismatch':
      return new ApiError('idempotency_mismatch')
    case 'too_many_inflight':
      return new ApiError('too_many_inflight', {
        message: `The ${refusal.scope} has ${refusal.inflight} unfinished jobs, and at most ${refusal.maxInflight} are allowed.`,
        data: {
          reason: 'concurrency',
          scope: refusal.scope,
          limit: refusal.maxInflight,
          inflight: refusal.inflight,
        },
        headers: { 'retry-after': '5' },
      })
    case 'insufficient_credit':
    case 'budget_exceeded': {
      const { scope, limitMicros, spentMicros, heldMicros, amountMicros, resetsAt } = refusal
      return new ApiError(refusal.reason, {
        ...(dialect === 'zai' ? { status: ZAI_STATUS[refusal.reason] } : {}),
        message: `The ${scope} has ${formatUsd(limitMicros - spentMicros - heldMicros)} USD left, and this request needs ${formatUsd(amountMicros)} USD.`,
        data: {
          reason: refusal.reason === 'budget_exceeded' ? 'budget' : 'credit',
          scope,
          limit: formatUsd(limitMicros),
          spent: formatUsd(spentMicros),
          held: formatUsd(heldMicros),
          amount: formatUsd(amountMicros),
          resets_at: resetsAt?.toISOString() ?? null,
        },
      })
    }
  }
}
