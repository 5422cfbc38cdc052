import { randomBytes } from 'node:crypto'
import { DeleteMessageCommand, ReceiveMessageCommand, SQSClient } from '@aws-sdk/client-sqs'
import { settleJob } from '../../billing/settle.ts'
import type { Db } from '../../db/client.ts'
import { claimJob, recordOutput } from '../../db/job-claims.ts'
import type { JobRow } from '../../db/jobs.ts'
import type { PictureStore } from '../../gpu-worker/store.ts'
import { encodeImage } from '../../gpu-worker/pipeline/encode.ts'
import type { TestQueue } from './queue.ts'

export interface Finisher {
  /** What to do with a job from now on; `draw` at first. */
  mode: 'draw' | 'fail' | 'hold'
  /** Jobs that came over the queue, in order, with repeats. */
  rung: string[]
  /** Does one job now, however it came. */
  finish(jobId: string, mode?: 'draw' | 'fail'): Promise<void>
  stop(): Promise<void>
}

/** Stands in for the worker: takes jobs from the real queue and ends them by the worker's own database calls. */
export function startFinisher(db: Db, queue: TestQueue, store: PictureStore): Finisher {
  const client = new SQSClient({
    endpoint: queue.env.SQS_ENDPOINT ?? '',
    region: queue.env.AWS_REGION ?? '',
    credentials: { accessKeyId: 'test', secretAccessKey: 'test' },
  })
  let isStopping = false
  const underWay = new Map<string, Promise<void>>()
  const finisher: Finisher = {
    mode: 'draw',
    rung: [],
    finish(jobId, mode = 'draw') {
      // Its message may have come first; then that one's end is this one's.
      const known = underWay.get(jobId)
      if (known) return known
      const ending = end(jobId, mode).finally(() => underWay.delete(jobId))
      underWay.set(jobId, ending)
      return ending
    },
    async stop() {
      isStopping = true
      queue.dropPolls()
      await loop
      client.destroy()
    },
  }
  async function end(jobId: string, mode: 'draw' | 'fail'): Promise<void> {
    const claim = await claimJob(db, {
      jobId,
      workerId: 'finisher',
      leaseSeconds: 60,
      maxFailedAttempts: 3,
    })
    if (claim.outcome !== 'claimed') return
    const { attempt } = claim.job
    if (mode === 'fail') {
      const errorCode = 'worker_failed'
      await settleJob(db, {
        jobId,
        attempt,
        outcome: 'failed',
        errorCode,
        errorMessage: 'No luck.',
      })
      return
    }
    for (let idx = 0; idx < claim.job.n; idx++) await draw(db, store, claim.job, attempt, idx)
    await settleJob(db, { jobId, attempt, outcome: 'succeeded' })
  }
  async function poll(): Promise<void> {
    while (!isStopping) {
      const { Messages = [] } = await client.send(
        new ReceiveMessageCommand({
          QueueUrl: queue.queueUrl,
          MaxNumberOfMessages: 10,
          WaitTimeSeconds: 1,
        }),
      )
      for (const message of Messages) {
        const { jobId } = JSON.parse(message.Body ?? '') as { jobId: string }
        finisher.rung.push(jobId)
        if (finisher.mode !== 'hold') await finisher.finish(jobId, finisher.mode)
        await client.send(
          new DeleteMessageCommand({
            QueueUrl: queue.queueUrl,
            ReceiptHandle: message.ReceiptHandle,
          }),
        )
      }
    }
  }
  const loop = poll()
  return finisher
}

async function draw(
  db: Db,
  store: PictureStore,
  job: JobRow,
  attempt: number,
  idx: number,
): Promise<void> {
  const encoded = await encodeImage(randomBytes(32 * 32 * 3), { width: 32, height: 32 }, job.format)
  const picture = { ...encoded, jobId: job.id, attempt, idx, format: job.format }
  const objectKey = await store.put(picture)
  await recordOutput(db, {
    jobId: job.id,
    attempt,
    output: {
      idx,
      objectKey,
      sha256: picture.sha256,
      sizeBytes: picture.bytes.length,
      contentType: picture.contentType,
      width: job.width,
      height: job.height,
      seed: job.seed + idx,
    },
  })
}
