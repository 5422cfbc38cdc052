import type { z } from '@hono/zod-openapi'
import type { Context, TypedResponse } from 'hono'
import type { JobWithOutputs } from '../db/jobs.ts'
import { awaitJob, toGone } from './await-job.ts'
import { createdHeaders, loseCall } from './create-job.ts'
import type { CreatedJob } from './create-job.ts'
import type { Deps, RequestState } from './deps.ts'
import { ApiError } from './errors.ts'
import { encodeOpenAiAnswer, toOpenAiAnswer } from './wire/openai.ts'
import type { openaiImageAnswer } from './wire/openai.ts'

/**
 * Waits for the pictures of a job and answers as OpenAI does, with links or with base 64.
 *
 * @throws ApiError as `awaitJob`
 */
export async function answerOpenAi(
  deps: Deps,
  c: Context<RequestState>,
  created: CreatedJob,
  call: { isBase64: boolean; ignored: string[] },
) {
  const found = await awaitJob(deps, created, c.req.raw.signal)
  const answer = await toOpenAiAnswer(deps, found, call.ignored)
  const headers = createdHeaders(created)
  if (!call.isBase64) return c.json(answer, 200, headers)
  const requestId = c.get('requestId')
  const stream = await openBase64(deps, { created, found, answer, requestId })
  // The stream holds the JSON of an answer, which the types cannot see.
  return c.newResponse(stream, 200, {
    ...headers,
    'content-type': 'application/json',
  }) as Response & TypedResponse<typeof answer, 200, 'json'>
}

/**
 * The pictures as a stream whose first one is open. Whatever breaks it leaves the job, which is paid, to an
 * equal call.
 */
async function openBase64(
  deps: Deps,
  call: {
    created: CreatedJob
    found: JobWithOutputs
    answer: z.output<typeof openaiImageAnswer>
    requestId: string
  },
): Promise<ReadableStream<Uint8Array>> {
  const { created, found, answer, requestId } = call
  const { jobId } = created
  const canceled = () => loseCall(deps, created)
  const failed = (error: unknown) => {
    canceled()
    const entry = { event: 'picture_unreadable', request_id: requestId, job_id: jobId }
    deps.log({ level: 'warn', ...entry, error: String(error) })
  }
  const stream = await encodeOpenAiAnswer(deps.objects, answer, found, { failed, canceled }).catch(
    (error: unknown) => {
      failed(error)
      throw new ApiError('unavailable', {
        message: `The picture is drawn but cannot be read at the moment; the same call again fetches it, as does its task id ${jobId}.`,
        data: { task_id: jobId },
      })
    },
  )
  if (stream === null) throw toGone(found)
  return stream
}
