import { eq } from 'drizzle-orm'
import type { Db } from './client.ts'
import { listOutputs } from './jobs.ts'
import type { JobRow, OutputRow } from './jobs.ts'
import { job } from './schema/job.ts'

export type ClaimResult =
  | { outcome: 'claimed'; job: JobRow; outputs: OutputRow[] }
  /** Finished or unknown: the message is of no use any more. */
  | { outcome: 'gone' }
  /** Another worker is alive on it. */
  | { outcome: 'busy'; leaseUntil: Date }
  /** It failed too often; somebody has to settle it as failed. */
  | { outcome: 'exhausted' }

/**
 * Takes a job for this worker under a new attempt number, the fence of every later write.
 *
 * A lease that ran out while the job was running is a crash of its worker and counts as a failed attempt.
 */
export async function claimJob(
  db: Db,
  input: { jobId: string; workerId: string; leaseSeconds: number; maxFailedAttempts: number },
): Promise<ClaimResult> {
  const [claimed] = await db.sql<{ id: string }[]>`
    update job set
      state = 'running', attempt = attempt + 1, worker_id = ${input.workerId},
      failed_attempts = failed_attempts + case state when 'running' then 1 else 0 end,
      lease_until = now() + make_interval(secs => ${input.leaseSeconds}),
      started_at = coalesce(started_at, now()), progress = null
    where id = ${input.jobId}
      and (state in ('accepted', 'queued') or (state = 'running' and lease_until <= now()))
      and failed_attempts + case state when 'running' then 1 else 0 end < ${input.maxFailedAttempts}
    returning id`
  const [row] = await db.orm.select().from(job).where(eq(job.id, input.jobId))
  if (claimed && row) {
    return { outcome: 'claimed', job: row, outputs: await listOutputs(db, input.jobId) }
  }
  if (!row || !['accepted', 'queued', 'running'].includes(row.state)) return { outcome: 'gone' }
  if (row.state === 'running' && row.leaseUntil && row.leaseUntil > new Date()) {
    return { outcome: 'busy', leaseUntil: row.leaseUntil }
  }
  return { outcome: 'exhausted' }
}

/**
 * Says that the worker lives: extends the lease and stores progress.
 *
 * @returns `owned: false` when the job has another attempt or is not running; nothing was written then
 */
export async function beatJob(
  db: Db,
  input: {
    jobId: string
    attempt: number
    leaseSeconds: number
    progress?: Record<string, unknown>
  },
): Promise<{ owned: boolean; cancelRequested: boolean }> {
  const progress = input.progress === undefined ? null : JSON.stringify(input.progress)
  const [row] = await db.sql<{ canceled: boolean }[]>`
    update job set lease_until = now() + make_interval(secs => ${input.leaseSeconds}),
                   progress = coalesce(${progress}::text::jsonb, progress)
     where id = ${input.jobId} and attempt = ${input.attempt} and state = 'running'
    returning cancel_requested_at is not null as canceled`
  return { owned: row !== undefined, cancelRequested: row?.canceled ?? false }
}

/**
 * Notes one stored image. Safe to repeat; an image of this index from an earlier attempt stays as it is.
 *
 * @returns false, and nothing written, when the job is no longer this attempt's
 * @throws RangeError on an index that the job does not have (bug): it would be charged beyond the hold
 */
export async function recordOutput(
  db: Db,
  input: {
    jobId: string
    attempt: number
    output: Omit<OutputRow, 'jobId' | 'storedAt' | 'deletedAt'>
  },
): Promise<boolean> {
  const { output } = input
  // The row lock on the job keeps a newer claim from coming between the look at the fence and the insert.
  const [mine] = await db.sql<{ n: number }[]>`
    with mine as (
      select id, n from job
       where id = ${input.jobId} and attempt = ${input.attempt} and state = 'running' for update
    ), stored as (
      insert into job_output (job_id, idx, object_key, sha256, size_bytes, content_type, width, height, seed)
      select id, ${output.idx}::int, ${output.objectKey}, ${output.sha256}, ${output.sizeBytes}::int,
             ${output.contentType}, ${output.width}::int, ${output.height}::int, ${output.seed}::bigint
        from mine where ${output.idx}::int between 0 and n - 1
      on conflict (job_id, idx) do nothing
    )
    select n from mine`
  if (mine && (output.idx < 0 || output.idx >= mine.n)) {
    throw new RangeError(`job ${input.jobId} has ${mine.n} images, there is none at ${output.idx}`)
  }
  return mine !== undefined
}

/**
 * Hands a running job back to the queue's care.
 *
 * @param input.countFailure false when the worker stops for reasons of its own
 * @returns false when the job is no longer this attempt's
 */
export async function giveBackJob(
  db: Db,
  input: {
    jobId: string
    attempt: number
    countFailure: boolean
    errorCode?: string
    errorMessage?: string
  },
): Promise<boolean> {
  const changed = await db.sql`
    update job set state = 'queued', lease_until = null, worker_id = null,
      failed_attempts = failed_attempts + ${input.countFailure ? 1 : 0},
      error_code = ${input.errorCode ?? null}, error_message = ${input.errorMessage ?? null}
    where id = ${input.jobId} and attempt = ${input.attempt} and state = 'running'`
  return changed.count === 1
}

export type CancelOutcome = 'canceled' | 'requested' | 'finished' | 'not_found'

/**
 * Cancels a job of this org. One that waits ends at once and releases its hold; one that runs is asked to
 * stop, and its worker settles it. Safe to repeat.
 */
export async function requestCancel(
  db: Db,
  input: { orgId: string; jobId: string },
): Promise<{ outcome: CancelOutcome }> {
  const [row] = await db.sql<{ state: string }[]>`
    update job set cancel_requested_at = coalesce(cancel_requested_at, now())
     where id = ${input.jobId} and org_id = ${input.orgId}
       and state in ('accepted', 'queued', 'running')
    returning state`
  if (!row) {
    const known = await db.sql`
      select 1 from job where id = ${input.jobId} and org_id = ${input.orgId}`
    return { outcome: known.length > 0 ? 'finished' : 'not_found' }
  }
  const document = JSON.stringify({ job_id: input.jobId, attempt: null, outcome: 'canceled' })
  const [settled] = await db.sql<{ result: { outcome: string } }[]>`
    select settle_job(${document}::text::jsonb) as result`
  if (settled?.result.outcome === 'settled') return { outcome: 'canceled' }
  return { outcome: settled?.result.outcome === 'repeated' ? 'finished' : 'requested' }
}
