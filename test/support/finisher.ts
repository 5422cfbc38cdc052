import { randomBytes } from 'node:crypto'
import { DeleteMessageCommand, ReceiveMessageCommand, SQSClient } from '@aws-sdk/client-sqs'
import { settleJob } from '../../billing/settle.ts'
import type { Db } from '../../db/client.ts'
import { claimJob, recordOutput } from '../../db/job-claims.ts'
import type { JobRow } from '../../db/jobs.ts'
import type { PictureStore } from '../../gpu-worker/store.ts'
import { encodeImage } from '../../gpu-worker/pipeline/encode.ts'
import type { TestQueue } from './queue.ts'
import { until } from './worker.ts'

export interface Finisher {
  /** What to do with a job from now on; `draw` at first. */
  mode: 'draw' | 'fail' | 'hold'
  /** Jobs that came over the queue, in order, with repeats. */
  rung: string[]
  /** Does one job now, however it came; returns when it has ended, whoever did it. */
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
  const finisher: Finisher = {
    mode: 'draw',
    rung: [],
    finish: async (jobId, mode = 'draw') => {
      if ((await work(db, store, jobId, mode)) === 'busy') await untilEnded(db, jobId)
    },
    async stop() {
      isStopping = true
      queue.dropPolls()
      await loop
      client.destroy()
    },
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
        if (finisher.mode !== 'hold') await work(db, store, jobId, finisher.mode)
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

async function work(
  db: Db,
  store: PictureStore,
  jobId: string,
  mode: 'draw' | 'fail',
): Promise<'ended' | 'busy'> {
  const claim = await claimJob(db, {
    jobId,
    workerId: 'finisher',
    leaseSeconds: 60,
    maxFailedAttempts: 3,
  })
  if (claim.outcome === 'busy') return 'busy'
  if (claim.outcome !== 'claimed') return 'ended'
  const { attempt } = claim.job
  if (mode === 'fail') {
    const error = { errorCode: 'worker_failed', errorMessage: 'No luck.' }
    await settleJob(db, { jobId, attempt, outcome: 'failed', ...error })
    return 'ended'
  }
  for (let idx = 0; idx < claim.job.n; idx++) await draw(db, store, claim.job, attempt, idx)
  await settleJob(db, { jobId, attempt, outcome: 'succeeded' })
  return 'ended'
}

/** The loop that reads the queue may have been faster than a test that asks for the same job. */
async function untilEnded(db: Db, jobId: string): Promise<void> {
  await until(
    async () =>
      (await db.sql`select 1 from job where id = ${jobId} and finished_at is null`).length === 0,
    () => `${jobId} to end`,
  )
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
