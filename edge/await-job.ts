import { isTerminal } from '../db/job-state.ts'
import { findJob } from '../db/jobs.ts'
import type { JobWithOutputs } from '../db/jobs.ts'
import type { CreatedJob } from './create-job.ts'
import type { Deps } from './deps.ts'
import { ApiError } from './errors.ts'

/**
 * Waits for a job on behalf of a synchronous call.
 *
 * @param signal aborts when the caller hangs up; the job goes on, and an equal call soon after takes it up
 * @throws ApiError `still_running` with the task id when time is up, `generation_failed` when the job ended
 *   without a picture
 */
export async function awaitJob(
  deps: Deps,
  created: CreatedJob,
  signal: AbortSignal,
): Promise<JobWithOutputs> {
  const { orgId, keyId, jobId, foldHash } = created
  let found = await findJob(deps.db, { orgId, jobId })
  if (found && !isTerminal(found.job.state)) {
    await deps.waiter.wait(jobId, signal)
    found = await findJob(deps.db, { orgId, jobId })
  }
  if (!found) throw new ApiError('internal')
  const hasEnded = isTerminal(found.job.state)
  if (foldHash !== null && (signal.aborted || !hasEnded)) {
    deps.lostCalls.lose({ keyId, requestHash: foldHash, jobId })
  }
  if (!hasEnded) {
    throw new ApiError('still_running', {
      message: `The picture is not ready yet. It is not lost: fetch it by its task id ${jobId}.`,
      data: { task_id: jobId },
    })
  }
  if (found.job.state !== 'succeeded') throw toFailure(found)
  return found
}

/** Why a job gave no picture, in the words of the error table. */
function toFailure({ job, reservation }: JobWithOutputs): ApiError {
  return new ApiError('generation_failed', {
    message: `The job ${job.state}: ${job.errorMessage ?? 'no picture was made.'} Nothing was charged.`,
    data: {
      task_id: job.id,
      state: job.state,
      error_code: job.errorCode,
      billed: reservation.capturedMicros > 0n,
      billed_reason: job.billedReason,
    },
  })
}
