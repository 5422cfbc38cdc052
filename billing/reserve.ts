import type { Db } from '../db/client.ts'
import { toStoredInput } from '../db/input-images.ts'
import type { InputImage } from '../db/input-images.ts'
import { codeOf, isOutcomeUnknown } from '../db/outage.ts'
import type { JobState } from '../db/job-state.ts'
import type { TextTerms } from '../db/text-terms.ts'
import type { PriceQuote } from './price.ts'

export type BudgetScope = 'key' | 'team' | 'org'

/** A job as the caller asked for it. */
export interface NewJob {
  id: string
  orgId: string
  teamId: string
  keyId: string
  /** Null: this call can never be repeated. */
  idempotencyKey: string | null
  /** Equal for equal requests; a repeat with another hash is refused. */
  requestHash: string
  dialect: 'native' | 'zai' | 'openai'
  model: string
  prompt: string
  width: number
  height: number
  n: number
  /** Of the price book. */
  quality: string
  priority: 'standard' | 'batch'
  seed: number
  steps: number | null
  guidanceScale: number | null
  format: 'png' | 'webp' | 'jpeg' | 'avif'
  callerFields: Record<string, unknown>
  webhookUrl: string | null
  /** Of the request that makes it; absent: it is not known. */
  requestId?: string
  /** Where its spans belong, as W3C Trace Context writes it; absent: nobody traces. */
  traceparent?: string
  /** The pictures to work from, which the store has; absent: from text alone. */
  inputImages?: readonly InputImage[]
  /** What is done about the texts in its pictures; absent: nothing. */
  textTerms?: TextTerms
  /** Unfinished by then, the job is expired and its hold released. */
  deadlineSeconds: number
}

export interface ReserveInput {
  job: NewJob
  price: Pick<PriceQuote, 'unitMicros' | 'priceVersionId' | 'listVersionId' | 'orgPriceId'>
}

export type ReserveResult =
  | {
      ok: true
      jobId: string
      /** An earlier call with this idempotency key made the job. */
      replayed: boolean
      state: JobState
      /** Of the message that still has to be sent; null when there is none. */
      outboxId: bigint | null
      /** Unfinished jobs, this one included, where key, team or org has the fewest places left; null without a limit. */
      places: { inflight: number; maxInflight: number } | null
    }
  | ReserveRefusal

export type ReserveRefusal =
  | { ok: false; reason: 'key_inactive' }
  /** A payment of the org is disputed, or due. */
  | { ok: false; reason: 'org_frozen' }
  | { ok: false; reason: 'idempotency_mismatch'; /** Of the other request. */ jobId: string }
  | {
      ok: false
      reason: 'insufficient_credit' | 'budget_exceeded'
      scope: BudgetScope
      /** Whose limit it is; null for credit. */
      period: 'day' | 'month' | null
      limitMicros: bigint
      spentMicros: bigint
      heldMicros: bigint
      amountMicros: bigint
      /** When that period is over; null for credit. */
      resetsAt: Date | null
    }
  | {
      ok: false
      reason: 'too_many_inflight'
      scope: BudgetScope
      inflight: number
      maxInflight: number
    }

/**
 * Accepts a job and holds its full price on key, team and org, or does nothing and says why: one round trip,
 * one commit for job row, hold, ledger and outbox. No budget is passed by any number of callers at once. The
 * key is checked again inside, so a revoked key starts nothing whatever a cache says.
 *
 * Safe to repeat under one idempotency key: a repeat returns the first job. Safe to repeat under one job id
 * too: a call whose answer was lost is made once more by itself and returns what the first one made.
 *
 * @throws the connection's error when the second call fails too; whether there is a job is then not known
 */
export async function reserveJob(db: Db, input: ReserveInput): Promise<ReserveResult> {
  const [result] = await reserveJobs(db, [input])
  if (!result) throw new Error('reserve_jobs returned no result')
  return result
}

/**
 * The same for several jobs in one round trip and one commit: the results are those of single calls made one after
 * the other in this order.
 *
 * @throws as `reserveJob` does; or, of a call that is broken, its error, and then none of these jobs was made
 */
export async function reserveJobs(
  db: Db,
  inputs: readonly ReserveInput[],
): Promise<ReserveResult[]> {
  if (inputs.length === 0) return []
  const results = await callReserve(db, `[${inputs.map(toDocument).join(',')}]`)
  // An equal call among these is answered by what the first of them made.
  return Promise.all(
    inputs.map((input, index) => {
      const result = results[index]
      if (!result) throw new Error('reserve_jobs returned too few results')
      return Promise.resolve(toResult(result) ?? reserveJob(db, input))
    }),
  )
}

/** What `reserveJob` would say of a repeat under this idempotency key; null for a new one. Reserves nothing. */
export async function findReplay(
  db: Db,
  call: { keyId: string; idempotencyKey: string; requestHash: string },
): Promise<ReserveResult | null> {
  const { keyId, idempotencyKey, requestHash } = call
  const [row] = await db.sql<{ result: WireResult | null }[]>`
    select earlier_job('', ${keyId}, ${idempotencyKey}, ${requestHash}) as result`
  return row?.result ? toResult(row.result) : null
}

/** Tries of one call; the last error is the caller's. */
const MAX_TRIES = 3
/**
 * Before a lost answer is asked for again. A server that goes away closes all connections of a pool, which then hands out
 * the next dead one for a moment.
 */
const PAUSE_MS = 50

async function callReserve(db: Db, document: string): Promise<WireResult[]> {
  for (let tries = 1; ; tries++) {
    try {
      const [row] = await db.sql<{ results: WireResult[] }[]>`
        select reserve_jobs(${document}::text::jsonb) as results`
      return row?.results ?? []
    } catch (error) {
      // One that an equal call came between is asked for again, and so is an answer that was lost, once.
      if (isConflict(error) && tries < MAX_TRIES) continue
      if (tries > 1 || !isOutcomeUnknown(error)) throw error
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS))
    }
  }
}

/** An equal call was accepted between look and write; the next look sees it. */
function isConflict(error: unknown): boolean {
  return codeOf(error) === '40001'
}

function toDocument({ job, price }: ReserveInput): string {
  return JSON.stringify({
    unit_micros: price.unitMicros.toString(),
    price_version_id: price.priceVersionId,
    list_version_id: price.listVersionId,
    org_price_id: price.orgPriceId,
    job: {
      id: job.id,
      org_id: job.orgId,
      team_id: job.teamId,
      key_id: job.keyId,
      idempotency_key: job.idempotencyKey,
      request_hash: job.requestHash,
      dialect: job.dialect,
      model: job.model,
      prompt: job.prompt,
      width: job.width,
      height: job.height,
      n: job.n,
      quality: job.quality,
      priority: job.priority,
      seed: job.seed,
      steps: job.steps,
      guidance_scale: job.guidanceScale,
      format: job.format,
      caller_fields: job.callerFields,
      webhook_url: job.webhookUrl,
      request_id: job.requestId,
      trace_parent: job.traceparent,
      input_images: job.inputImages?.map(toStoredInput),
      text_terms: job.textTerms,
      deadline_seconds: job.deadlineSeconds,
    },
  })
}

type WireResult =
  | {
      ok: true
      replayed: boolean
      job_id: string
      state: JobState
      outbox_id: string | null
      /** Both absent for a job that was there before, both null without a limit. */
      inflight?: number | null
      max_inflight?: number | null
    }
  /** An equal call of the same batch was accepted. */
  | { ok: false; reason: 'repeated' }
  | WireRefusal

/** A refusal as the database says it. */
export type WireRefusal =
  | { ok: false; reason: 'key_inactive' | 'org_frozen' }
  | { ok: false; reason: 'idempotency_mismatch'; job_id: string }
  | {
      ok: false
      reason: 'insufficient_credit' | 'budget_exceeded'
      scope: BudgetScope
      period: 'day' | 'month' | null
      limit_micros: string
      spent_micros: string
      held_micros: string
      amount_micros: string
      resets_at: string | null
    }
  | {
      ok: false
      reason: 'too_many_inflight'
      scope: BudgetScope
      inflight: number
      max_inflight: number
    }

/** Null where the answer is that of the same call made again. */
function toResult(wire: WireResult): ReserveResult | null {
  if (!wire.ok) return wire.reason === 'repeated' ? null : toRefusal(wire)
  const { inflight, max_inflight: maxInflight, outbox_id: outboxId } = wire
  return {
    ok: true,
    jobId: wire.job_id,
    replayed: wire.replayed,
    state: wire.state,
    outboxId: outboxId === null ? null : BigInt(outboxId),
    places: inflight == null || maxInflight == null ? null : { inflight, maxInflight },
  }
}

/** The same in the words of this side. */
export function toRefusal(wire: WireRefusal): ReserveRefusal {
  switch (wire.reason) {
    case 'key_inactive':
    case 'org_frozen':
      return { ok: false, reason: wire.reason }
    case 'idempotency_mismatch':
      return { ok: false, reason: wire.reason, jobId: wire.job_id }
    case 'too_many_inflight':
      return {
        ok: false,
        reason: wire.reason,
        scope: wire.scope,
        inflight: wire.inflight,
        maxInflight: wire.max_inflight,
      }
    case 'insufficient_credit':
    case 'budget_exceeded':
      return {
        ok: false,
        reason: wire.reason,
        scope: wire.scope,
        period: wire.period,
        limitMicros: BigInt(wire.limit_micros),
        spentMicros: BigInt(wire.spent_micros),
        heldMicros: BigInt(wire.held_micros),
        amountMicros: BigInt(wire.amount_micros),
        resetsAt: wire.resets_at === null ? null : new Date(wire.resets_at),
      }
  }
}
