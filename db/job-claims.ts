import { getTableColumns } from 'drizzle-orm'
import type { Db } from './client.ts'
import { listOutputs } from './jobs.ts'
import type { JobRow, OutputRow } from './jobs.ts'
import { job } from './schema/job.ts'

export type ClaimResult =
  | { outcome: 'claimed'; job: JobRow; outputs: OutputRow[] }
  /** Finished or unknown: the message is of no use any more. */
  | { outcome: 'gone' }
  /** Another worker is alive on it, by its lease for so long from now. */
  | { outcome: 'busy'; leftSeconds: number }
  /** Nobody works on it and nobody should: somebody has to settle it as canceled, expired or failed. */
  | { outcome: 'canceled' | 'overdue' | 'exhausted' }

/**
 * Takes a job for this worker under a new attempt number, the fence of every later write. One statement decides
 * under the lock of the job's row and by the database's clock, so that no answer is made of two moments.
 *
 * A lease that ran out while the job was running is a crash of its worker and counts as a failed attempt.
 */
export async function claimJob(
  db: Db,
  input: { jobId: string; workerId: string; leaseSeconds: number; maxFailedAttempts: number },
): Promise<ClaimResult> {
  const [decided] = await db.sql<
    ({ outcome: ClaimResult['outcome']; left: number | null } & Record<string, unknown>)[]
  >`
    with found as (
      select id, state, lease_until, cancel_requested_at, deadline_at,
             failed_attempts + case state when 'running' then 1 else 0 end as failures
        from job where id = ${input.jobId} for update
    ), decided as (
      select id as job_id, failures, extract(epoch from lease_until - now())::float8 as left,
             case when state not in ('accepted', 'queued', 'running') then 'gone'
                  when state = 'running' and lease_until > now() then 'busy'
                  when cancel_requested_at is not null then 'canceled'
                  when deadline_at <= now() then 'overdue'
                  when failures >= ${input.maxFailedAttempts}::int then 'exhausted'
                  else 'claimed' end as outcome
        from found
    ), taken as (
      update job set state = 'running', attempt = job.attempt + 1, worker_id = ${input.workerId},
             failed_attempts = decided.failures,
             lease_until = now() + make_interval(secs => ${input.leaseSeconds}),
             started_at = coalesce(job.started_at, now()), progress = null
        from decided where job.id = decided.job_id and decided.outcome = 'claimed'
      returning job.*
    )
    select decided.outcome, decided.left, taken.* from decided left join taken on true`
  if (!decided) return { outcome: 'gone' }
  const { outcome, left } = decided
  if (outcome === 'busy') return { outcome, leftSeconds: left ?? 0 }
  if (outcome !== 'claimed') return { outcome }
  const taken = toJobRow(decided)
  // Only an earlier attempt can have stored something.
  const outputs = taken.attempt === 1 ? [] : await listOutputs(db, input.jobId)
  return { outcome, job: taken, outputs }
}

const JOB_COLUMNS = Object.entries(getTableColumns(job))

/** The row of a hand-written statement as the query builder would return it. */
function toJobRow(row: Record<string, unknown>): JobRow {
  const fields = JOB_COLUMNS.map(([name, column]) => {
    const value = row[column.name]
    return [name, value === null ? null : column.mapFromDriverValue(value)]
  })
  return Object.fromEntries(fields) as JobRow
}

/**
 * Says that the worker lives: extends the lease and stores progress. Says what it has to hear by the database's
 * clock: that the caller wants no more of it, or that the job is past its deadline.
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
): Promise<{ owned: boolean; cancelRequested: boolean; overdue: boolean }> {
  const progress = input.progress === undefined ? null : JSON.stringify(input.progress)
  const [row] = await db.sql<{ canceled: boolean; overdue: boolean }[]>`
    update job set lease_until = now() + make_interval(secs => ${input.leaseSeconds}),
                   progress = coalesce(${progress}::text::jsonb, progress)
     where id = ${input.jobId} and attempt = ${input.attempt} and state = 'running'
    returning cancel_requested_at is not null as canceled, deadline_at <= now() as overdue`
  return {
    owned: row !== undefined,
    cancelRequested: row?.canceled ?? false,
    overdue: row?.overdue ?? false,
  }
}

/** A stored image. Absent `textCheck`: its text was not read; absent `unbilledReason`: it is charged. */
export type NewOutput = Omit<
  OutputRow,
  'jobId' | 'storedAt' | 'deletedAt' | 'textCheck' | 'unbilledReason'
> &
  Partial<Pick<OutputRow, 'textCheck' | 'unbilledReason'>>

/**
 * Notes one stored image. Safe to repeat; an image of this index from an earlier attempt stays as it is.
 *
 * @returns `owned: false`, and nothing written now or by any later repeat, when the job is no longer this
 *   attempt's; `kept: false` when the object is not the one that the job has at this index, so that nothing will
 *   ever name it
 * @throws RangeError on an index that the job does not have (bug): it would be charged beyond the hold
 */
export async function recordOutput(
  db: Db,
  input: {
    jobId: string
    attempt: number
    output: NewOutput
  },
): Promise<{ owned: boolean; kept: boolean }> {
  const { output } = input
  const textCheck = output.textCheck ? JSON.stringify(output.textCheck) : null
  // The row lock on the job keeps a newer claim from coming between the look at the fence and the insert.
  const [mine] = await db.sql<{ n: number; key: string | null }[]>`
    with mine as (
      select id, n from job
       where id = ${input.jobId} and attempt = ${input.attempt} and state = 'running' for update
    ), stored as (
      insert into job_output (job_id, idx, object_key, sha256, size_bytes, content_type, width, height, seed,
                              text_check, unbilled_reason)
      select id, ${output.idx}::int, ${output.objectKey}, ${output.sha256}, ${output.sizeBytes}::int,
             ${output.contentType}, ${output.width}::int, ${output.height}::int, ${output.seed}::bigint,
             ${textCheck}::text::jsonb, ${output.unbilledReason ?? null}
        from mine where ${output.idx}::int between 0 and n - 1
      -- Changes nothing, and returns the row that is there, also one that this statement's snapshot does not show.
      on conflict (job_id, idx) do update set idx = job_output.idx
      returning object_key
    )
    select n, object_key as key from mine left join stored on true`
  if (mine && mine.key === null) {
    throw new RangeError(`job ${input.jobId} has ${mine.n} images, there is none at ${output.idx}`)
  }
  if (mine) return { owned: true, kept: mine.key === output.objectKey }
  // An earlier execution of this call, whose answer was lost, may have been in time.
  const known = await db.sql`
    select 1 from job_output where job_id = ${input.jobId} and object_key = ${output.objectKey}`
  return { owned: false, kept: known.length > 0 }
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
