import { findReplay } from '../billing/reserve.ts'
import { ReserveOverload } from '../billing/reserve-queue.ts'
import type { NewJob, ReserveResult } from '../billing/reserve.ts'
import { toHex } from '../db/derive.ts'
import { createId } from '../db/ids.ts'
import type { InputImage } from '../db/input-images.ts'
import { JOB_DEADLINE_SECONDS, isTerminal } from '../db/job-state.ts'
import { findJob, isKnownCall } from '../db/jobs.ts'
import type { JobRow } from '../db/jobs.ts'
import type { KeyPrincipal } from '../db/keys.ts'
import type { TextTerms } from '../db/text-terms.ts'
import { parseTraceparent } from '../db/trace-context.ts'
import { QUALITY, checkOrder } from './check-order.ts'
import type { Deps, Origin } from './deps.ts'
import { ApiError } from './errors.ts'
import { inflightHeaders } from './limits.ts'
import { toRefusalError } from './refusal.ts'

/** A request for pictures, whatever dialect it came in. */
export interface ImageOrder {
  /** The request that brought it. */
  origin: Origin
  dialect: NewJob['dialect']
  model: string
  prompt: string
  /** Absent: the model's default, or that of the first input. */
  size?: string | undefined
  n: number
  /** Absent: drawn at random. */
  seed?: number | undefined
  steps?: number | undefined
  guidanceScale?: number | undefined
  format: NewJob['format']
  webhookUrl?: string | undefined
  /** The caller's own key for this order and where it stood; null: every call is an order of its own. */
  idempotency: { key: string; param: 'Idempotency-Key' | 'request_id' } | null
  /** The caller waits for the pictures, so that a lost connection may be taken up again. */
  isSync: boolean
  /** Absent: standard. */
  priority?: NewJob['priority'] | undefined
  /** Returned with the job: request_id, user_id, metadata. */
  callerFields: Record<string, unknown>
  /** Absent: from text alone. */
  inputs?: OrderInputs
  /** Absent: the pictures are not read back. */
  text?: TextTerms
}

/** The pictures that an order works from. */
export interface OrderInputs {
  /** Of the job that a new order becomes; the store has the bytes under it. */
  jobId: string
  images: readonly InputImage[]
  /** False for a repeat: the job that it is about has its own. */
  isStored: boolean
}

export interface CreatedJob {
  jobId: string
  orgId: string
  keyId: string
  /** By which an equal call may take this one up; null when the caller repeats under a key of its own. */
  foldHash: string | null
  /** The job existed: this call repeated an earlier one. */
  replayed: boolean
  /** Unfinished jobs and their limit where the fewest places are left; null without a limit and for a repeat. */
  places: { inflight: number; maxInflight: number } | null
}

/**
 * Accepts an order: price, reservation and job row in one database round trip, then the doorbell.
 *
 * @throws ApiError naming what is wrong or what refused it; nothing is held then. Another error leaves open
 *   whether there is a job; an equal call soon after takes it up
 */
export async function createJob(
  deps: Deps,
  principal: KeyPrincipal,
  order: ImageOrder,
): Promise<CreatedJob> {
  const { orgId, keyId } = principal
  const requestHash = await hashOrder(order)
  // Who waits and who does not take up only calls of their own kind.
  const foldHash =
    order.idempotency === null ? `${order.isSync ? 'sync' : 'async'} ${requestHash}` : null
  const call = { orgId, keyId, foldHash }
  const checked = await checkOrder(deps, orgId, order)
  if (checked instanceof ApiError || order.inputs?.isStored === false) {
    const earlier = await findEarlier(deps, { keyId, requestHash, order })
    if (earlier !== null) return { ...call, ...accept(earlier, order) }
    throw checked instanceof ApiError ? checked : new Error('the inputs of an order are not stored')
  }
  const lost = foldHash === null ? null : deps.lostCalls.reclaim(keyId, foldHash)
  const newId = order.inputs?.jobId ?? createId('job')
  let jobId = lost ?? newId
  try {
    const earlier = lost === null ? null : await findJob(deps.db, { orgId, jobId: lost })
    if (earlier && isWorthTaking(earlier.job)) {
      return { ...call, jobId, replayed: true, places: null }
    }
    // A lost call whose job is not there is repeated under its id: it may still be on its way. The store has its
    // inputs, which are equal to these, under that id too.
    if (earlier) jobId = newId
    const job = toNewJob(order, principal, { ...checked, id: jobId, requestHash })
    const reserved = await deps.reserve({ job, price: checked.price }).catch(refuseOverload)
    const accepted = accept(reserved, order)
    if (reserved.ok && !reserved.replayed) {
      // The sweep sends it if this fails, so the answer does not wait for the queue.
      const { priority, traceparent } = job
      const { outboxId } = reserved
      deps.background(
        deps.queue.send({ outboxId, jobId, orgId, priority, traceparent: traceparent ?? null }),
      )
    }
    logAccepted(deps, accepted, order.origin)
    return { ...call, ...accepted }
  } catch (error) {
    if (!(error instanceof ApiError)) loseCall(deps, { ...call, jobId })
    throw error
  }
}

/** By which a job is found whose caller knows the request's id, or its trace. */
function logAccepted(
  { log }: Deps,
  { jobId, replayed }: Pick<CreatedJob, 'jobId' | 'replayed'>,
  { requestId, traceparent }: Origin,
): void {
  const trace = parseTraceparent(traceparent)
  log({
    level: 'info',
    event: 'job_accepted',
    request_id: requestId,
    job: jobId,
    replayed,
    ...(trace && { trace_id: trace.traceId }),
  })
}

/** The calls before this one take about a second. */
const OVERLOAD_RETRY_SECONDS = '1'

function refuseOverload(error: unknown): never {
  if (!(error instanceof ReserveOverload)) throw error
  throw new ApiError('rate_limited', { headers: { 'retry-after': OVERLOAD_RETRY_SECONDS } })
}

/** Leaves the job of a call to an equal one: its caller was not told of it, and most clients will call again. */
export function loseCall(
  deps: Deps,
  { keyId, foldHash, jobId }: Pick<CreatedJob, 'keyId' | 'foldHash' | 'jobId'>,
): void {
  if (foldHash !== null) deps.lostCalls.lose({ keyId, requestHash: foldHash, jobId })
}

/** The caller's key from its header. */
export function idempotencyOf(headers: {
  'idempotency-key'?: string | undefined
}): ImageOrder['idempotency'] {
  const { 'idempotency-key': key } = headers
  return key === undefined ? null : { key, param: 'Idempotency-Key' }
}

/** Whether a job was made under the caller's key: this call is then about that job, whatever it says. */
export async function isRepeat(
  deps: Deps,
  { keyId }: KeyPrincipal,
  idempotency: ImageOrder['idempotency'],
): Promise<boolean> {
  if (idempotency === null) return false
  return isKnownCall(deps.db, { keyId, idempotencyKey: idempotency.key })
}

/** What every answer about a job that was just made says of the call in its headers. */
export function createdHeaders({ replayed, places }: CreatedJob): Record<string, string> {
  return {
    ...(replayed ? { 'idempotent-replayed': 'true' } : {}),
    ...(places === null ? {} : inflightHeaders(places)),
  }
}

/** A caller who lost a job wants its pictures, and not to hear again that there are none. */
function isWorthTaking(job: JobRow): boolean {
  if (job.deletedAt !== null) return false
  return isTerminal(job.state) ? job.state === 'succeeded' : job.cancelRequestedAt === null
}

/** The job of an earlier call under this order's key: a repeat is answered whatever is for sale today. */
async function findEarlier(
  deps: Deps,
  call: { keyId: string; requestHash: string; order: ImageOrder },
): Promise<ReserveResult | null> {
  const { keyId, requestHash, order } = call
  if (order.idempotency === null) return null
  return findReplay(deps.db, { keyId, requestHash, idempotencyKey: order.idempotency.key })
}

function accept(
  reserved: ReserveResult,
  order: ImageOrder,
): Pick<CreatedJob, 'jobId' | 'replayed' | 'places'> {
  if (!reserved.ok) throw toRefusalError(reserved, order)
  const { jobId, replayed, places } = reserved
  return { jobId, replayed, places }
}

function toNewJob(
  order: ImageOrder,
  principal: KeyPrincipal,
  made: { id: string; requestHash: string; width: number; height: number },
): NewJob {
  const { id, requestHash, width, height } = made
  const { priority = 'standard', origin } = order
  return {
    id,
    orgId: principal.orgId,
    teamId: principal.teamId,
    keyId: principal.keyId,
    idempotencyKey: order.idempotency?.key ?? null,
    requestHash,
    dialect: order.dialect,
    model: order.model,
    prompt: order.prompt,
    width,
    height,
    n: order.n,
    quality: QUALITY,
    priority,
    seed: order.seed ?? randomSeed(),
    steps: order.steps ?? null,
    guidanceScale: order.guidanceScale ?? null,
    format: order.format,
    callerFields: order.callerFields,
    webhookUrl: order.webhookUrl ?? null,
    requestId: origin.requestId,
    ...(origin.traceparent !== undefined && { traceparent: origin.traceparent }),
    ...(order.inputs && { inputImages: order.inputs.images }),
    ...(order.text && { textTerms: order.text }),
    deadlineSeconds: JOB_DEADLINE_SECONDS[priority],
  }
}

/** Equal for orders that ask for the same, whether the caller waits or not. */
async function hashOrder(order: ImageOrder): Promise<string> {
  const { origin: _origin, idempotency: _key, isSync: _isSync, ...rest } = order
  const { callerFields, inputs, ...asked } = rest
  const parts: unknown[] = [sortFields(asked), sortFields(callerFields)]
  if (inputs) parts.push(inputs.images.map(({ sha256 }) => sha256))
  const text = JSON.stringify(parts)
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
