import { randomBytes } from 'node:crypto'
import { DeleteMessageCommand, ReceiveMessageCommand, SQSClient } from '@aws-sdk/client-sqs'
import { settleJob } from '../../billing/settle.ts'
import type { Db } from '../../db/client.ts'
import { claimJob, recordOutput } from '../../db/job-claims.ts'
import type { JobRow } from '../../db/jobs.ts'
import { drawChecked } from '../../gpu-worker/draw-checked.ts'
import type { CheckedPicture } from '../../gpu-worker/draw-checked.ts'
import { createTextReader } from '../../gpu-worker/ocr/reader.ts'
import type { TextReader } from '../../gpu-worker/ocr/reader.ts'
import { encodeFile, encodeImage } from '../../gpu-worker/pipeline/encode.ts'
import type { ImageResult } from '../../gpu-worker/pipeline/image-request.ts'
import type { PictureStore } from '../../gpu-worker/store.ts'
import type { TestQueue } from './queue.ts'
import { drawTexts } from './text-pictures.ts'

export interface Finisher {
  /** What to do with a job from now on; `draw` at first. */
  mode: 'draw' | 'fail' | 'hold'
  /** How it spells the texts of jobs that want them read back; as they stand in the job at first. */
  spell: (text: string, seed: number) => string
  /** Jobs that came over the queue, in order, with repeats. */
  rung: string[]
  /** The `traceparent` that came with each; undefined where none did. */
  traces: (string | undefined)[]
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
  const reader = createTextReader()
  const underWay = new Map<string, Promise<void>>()
  const finisher: Finisher = {
    mode: 'draw',
    spell: (text) => text,
    rung: [],
    traces: [],
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
      reader.close()
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
    for (let idx = 0; idx < claim.job.n; idx++) {
      const picture = await paint({ job: claim.job, idx, reader, spell: finisher.spell })
      await keep({ db, store, job: claim.job, attempt, idx, picture })
    }
    await settleJob(db, { jobId, attempt, outcome: 'succeeded' })
  }
  async function poll(): Promise<void> {
    while (!isStopping) {
      const { Messages = [] } = await client.send(
        new ReceiveMessageCommand({
          QueueUrl: queue.queueUrl,
          MaxNumberOfMessages: 10,
          WaitTimeSeconds: 1,
          MessageAttributeNames: ['All'],
        }),
      )
      for (const message of Messages) {
        const { jobId } = JSON.parse(message.Body ?? '') as { jobId: string }
        finisher.traces.push(message.MessageAttributes?.['traceparent']?.StringValue)
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

/** Noise, or of a job that wants its texts read back a picture that shows them, read by the worker's own code. */
async function paint(input: {
  job: JobRow
  idx: number
  reader: TextReader
  spell: Finisher['spell']
}): Promise<CheckedPicture> {
  const { job, idx, reader, spell } = input
  const toResult = (
    encoded: Pick<ImageResult, 'bytes' | 'contentType' | 'sha256'>,
    seed: number,
  ) => {
    const { width, height } = job
    const rest = { steps: 1, guidanceScale: 1, tokenCount: 0, timingsMs: {} }
    return { ...encoded, width, height, seed, ...rest }
  }
  const { signal } = new AbortController()
  const checking = {
    job,
    reader,
    signal,
    onPicture: () => {},
    spent: { redrawMs: 0 },
    log: () => {},
  }
  return drawChecked(checking, idx, async (seed) => {
    const size = { width: 32, height: 32 }
    if (job.textTerms === null) {
      return toResult(await encodeImage(randomBytes(32 * 32 * 3), size, job.format), seed)
    }
    const texts = job.textTerms.expected.map((text) => spell(text, seed))
    const own = { width: 512, height: 512 }
    const font = (text: string) => (/\p{Script=Han}/u.test(text) ? 'chinese-serif' : 'sans-bold')
    const file = await drawTexts(
      texts.map((text) => ({ text, font: font(text), sizePx: 48 })),
      own,
    )
    return toResult(await encodeFile(file, own, job.format), seed)
  })
}

async function keep(input: {
  db: Db
  store: PictureStore
  job: JobRow
  attempt: number
  idx: number
  picture: CheckedPicture
}): Promise<void> {
  const { db, store, job, attempt, idx, picture } = input
  const { result, textCheck, unbilledReason } = picture
  const { sha256, contentType, width, height, seed } = result
  const place = { jobId: job.id, attempt, idx, format: job.format }
  const objectKey = await store.put({ ...result, ...place })
  const about = { sha256, contentType, width, height, seed, sizeBytes: result.bytes.length }
  const output = { idx, objectKey, ...about, textCheck, unbilledReason }
  await recordOutput(db, { jobId: job.id, attempt, output })
}
