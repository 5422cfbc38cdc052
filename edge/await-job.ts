import { isTerminal } from '../db/job-state.ts'
import { findJob } from '../db/jobs.ts'
import type { JobWithOutputs } from '../db/jobs.ts'
import { loseCall } from './create-job.ts'
import type { CreatedJob } from './create-job.ts'
import type { Deps } from './deps.ts'
import { ApiError } from './errors.ts'

/** The job that a call has just made or repeated. When it cannot be read, an equal call takes it up. */
export async function findCreated(deps: Deps, created: CreatedJob): Promise<JobWithOutputs> {
  const { orgId, jobId } = created
  try {
    const found = await findJob(deps.db, { orgId, jobId })
    if (!found) throw new Error(`job ${jobId} is not there`)
    return found
  } catch (error) {
    loseCall(deps, created)
    throw error
  }
}

/**
 * Waits for a job on behalf of a synchronous call. Whatever ends the call before its caller has heard of the
 * job leaves it to an equal call soon after.
 *
 * @param signal aborts when the caller hangs up; the job goes on
 * @throws ApiError `still_running` with the task id when time is up, `generation_failed` when the job ended
 *   without a picture, `gone` when its pictures were deleted
 */
export async function awaitJob(
  deps: Deps,
  created: CreatedJob,
  signal: AbortSignal,
): Promise<JobWithOutputs> {
  const { jobId } = created
  let found = await findCreated(deps, created)
  let isLost = false
  if (!isTerminal(found.job.state)) {
    await deps.waiter.wait(jobId, signal)
    isLost = signal.aborted
    // At once, as the caller's next call may already be on its way.
    if (isLost) loseCall(deps, created)
    found = await findCreated(deps, created)
  }
  const hasEnded = isTerminal(found.job.state)
  if (!isLost && (signal.aborted || !hasEnded)) loseCall(deps, created)
  if (!hasEnded) {
    throw new ApiError('still_running', {
      message: `The picture is not ready yet. It is not lost: fetch it by its task id ${jobId}.`,
      data: { task_id: jobId },
    })
  }
  if (found.job.state !== 'succeeded') throw toFailure(found)
  if (found.job.deletedAt !== null) throw toGone(found)
  return found
}

/** Why a job gave no picture, in the words of the error table. */
function toFailure(found: JobWithOutputs): ApiError {
  const { job } = found
  return new ApiError('generation_failed', {
    message: `The job ${job.state}: ${job.errorMessage ?? 'no picture was made.'} Nothing was charged.`,
    data: { ...endOf(found), error_code: job.errorCode },
  })
}

/** The pictures of a job are not there any more. */
export function toGone(found: JobWithOutputs): ApiError {
  return new ApiError('gone', {
    message: `The pictures of ${found.job.id} were delivered and are no longer kept; a new order draws new ones.`,
    data: endOf(found),
  })
}

/** How a job ended and whether it is paid. */
function endOf({ job, reservation }: JobWithOutputs) {
  return {
    task_id: job.id,
    state: job.state,
    billed: reservation.capturedMicros > 0n,
    billed_reason: job.billedReason,
  }
}
