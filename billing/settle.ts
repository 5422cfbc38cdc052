import type { Db } from '../db/client.ts'
import type { TerminalState } from '../db/job-state.ts'

export interface SettleInput {
  jobId: string
  /** The attempt that the worker claimed; null when no worker is involved. */
  attempt: number | null
  outcome: TerminalState
  /** Absent: follows from what was delivered. */
  billedReason?: string
  errorCode?: string
  errorMessage?: string
  /** Stored with the job: GPU seconds, timings, weights hash. */
  runInfo?: Record<string, unknown>
}

export type SettleResult =
  | ({ outcome: 'settled' | 'repeated' } & Settled)
  /** The job belongs to a newer attempt, to a live worker, or is not there. Nothing was written. */
  | { outcome: 'superseded' }

interface Settled {
  state: TerminalState
  capturedMicros: bigint
  deliveredCount: number
  /** What became of its pictures; absent from a repeat, so that nobody counts them twice. */
  images?: {
    ordered: number
    billed: number
    /** Why those that were delivered beside them are free. */
    unbilledReason: string | null
  }
}

/**
 * Ends a job and turns its hold into the charge, once, in one transaction: unit price times stored images is
 * captured, the rest released; usage lines, ledger, state and webhook rows commit with it.
 *
 * Safe to repeat: a repeat returns the first result. With images stored the job has succeeded, whatever
 * `outcome` says, and the error is kept beside it.
 *
 * @throws when `outcome` is `succeeded` and no image is stored (bug)
 */
export async function settleJob(db: Db, input: SettleInput): Promise<SettleResult> {
  const document = JSON.stringify({
    job_id: input.jobId,
    attempt: input.attempt,
    outcome: input.outcome,
    billed_reason: input.billedReason,
    error_code: input.errorCode,
    error_message: input.errorMessage,
    run_info: input.runInfo,
  })
  const [row] = await db.sql<{ result: WireResult }[]>`
    select settle_job(${document}::text::jsonb) as result`
  if (!row) throw new Error('settle_job returned no row')
  const { result } = row
  if (result.outcome === 'superseded') return { outcome: 'superseded' }
  return {
    outcome: result.outcome,
    state: result.state,
    capturedMicros: BigInt(result.captured_micros),
    deliveredCount: result.delivered_count,
    ...(result.outcome === 'settled' && {
      images: {
        ordered: result.image_count,
        billed: result.billed_count,
        unbilledReason: result.unbilled_reason,
      },
    }),
  }
}

type WireResult =
  | { outcome: 'superseded' }
  | ({ outcome: 'repeated' } & WireSettled)
  | ({
      outcome: 'settled'
      image_count: number
      billed_count: number
      unbilled_reason: string | null
    } & WireSettled)

interface WireSettled {
  state: TerminalState
  captured_micros: string
  delivered_count: number
}
