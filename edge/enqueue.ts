import { SQSClient, SendMessageBatchCommand } from '@aws-sdk/client-sqs'
import type { Db } from '../db/client.ts'
import { markDispatched } from '../db/outbox.ts'

export interface Dispatch {
  /** The outbox row to mark when the message is out; null for a repeat of it. */
  outboxId: bigint | null
  jobId: string
  /** The queue serves orgs fairly by it. */
  orgId: string
  /** Absent: standard. */
  priority?: 'standard' | 'batch'
  /** Travels with the message, so that the worker's spans go on with the trace; null: nobody traces. */
  traceparent?: string | null
}

/** The doorbell: tells workers that there is a job. Losing, doubling or delaying a message is harmless. */
export interface DispatchQueue {
  /**
   * Puts a job's id on the queue. Calls that come while others are on their way travel together.
   *
   * @throws when the queue did not take it; the sweep sends it later
   */
  send(dispatch: Dispatch): Promise<void>
}

/** The most that one call of SQS takes. */
const MAX_BATCH = 10
const REQUEST_TIMEOUT_MS = 5_000
/** Batches on their way at once; beyond it dispatches wait for one to come back. */
const MAX_BATCHES_UNDER_WAY = 4

/** Dispatches that may wait for their turn; beyond it the sweep sends them from the database. */
const MAX_WAITING = 5_000

interface Waiting extends Dispatch {
  resolve: () => void
  reject: (error: unknown) => void
}

/**
 * The queue on SQS or anything that speaks its protocol. A sent message's outbox row is marked done.
 *
 * @param settings.endpoint overrides the address, for servers other than AWS
 */
export function createSqsQueue(
  db: Db,
  settings: {
    queueUrl: string
    /** Takes the jobs that may wait a day; absent: they share the other queue. */
    batchQueueUrl?: string
    region: string
    endpoint?: string
    credentials?: { accessKeyId: string; secretAccessKey: string; sessionToken?: string }
  },
): DispatchQueue {
  const client = new SQSClient({
    region: settings.region,
    maxAttempts: 2,
    ...(settings.endpoint === undefined ? {} : { endpoint: settings.endpoint }),
    ...(settings.credentials === undefined ? {} : { credentials: settings.credentials }),
  })
  const standard = createSender(db, client, settings.queueUrl)
  const { batchQueueUrl } = settings
  const batch = batchQueueUrl === undefined ? standard : createSender(db, client, batchQueueUrl)
  return {
    send: (dispatch) => (dispatch.priority === 'batch' ? batch : standard)(dispatch),
  }
}

function createSender(db: Db, client: SQSClient, queueUrl: string): DispatchQueue['send'] {
  const waiting: Waiting[] = []
  let underWay = 0

  function pump(): void {
    while (underWay < MAX_BATCHES_UNDER_WAY && waiting.length > 0) {
      underWay += 1
      const batch = waiting.splice(0, MAX_BATCH)
      void sendBatch(db, client, queueUrl, batch).finally(() => {
        underWay -= 1
        pump()
      })
    }
  }

  return (dispatch) =>
    new Promise((resolve, reject) => {
      if (waiting.length >= MAX_WAITING) return reject(new Error('too many dispatches wait'))
      waiting.push({ ...dispatch, resolve, reject })
      pump()
    })
}

/** One call of SQS; each caller hears of its own message. */
async function sendBatch(
  db: Db,
  client: SQSClient,
  queueUrl: string,
  batch: Waiting[],
): Promise<void> {
  try {
    const answer = await client.send(
      new SendMessageBatchCommand({
        QueueUrl: queueUrl,
        Entries: batch.map(({ jobId, orgId, traceparent }, index) => ({
          Id: String(index),
          MessageBody: JSON.stringify({ jobId }),
          MessageGroupId: orgId,
          ...(traceparent != null && {
            MessageAttributes: { traceparent: { DataType: 'String', StringValue: traceparent } },
          }),
        })),
      }),
      { abortSignal: AbortSignal.timeout(REQUEST_TIMEOUT_MS) },
    )
    const sent = new Set(answer.Successful?.map((entry) => Number(entry.Id)))
    const ids = batch.flatMap(({ outboxId }, index) =>
      sent.has(index) && outboxId !== null ? [outboxId] : [],
    )
    await markDispatched(db, ids)
    batch.forEach((dispatch, index) => {
      if (sent.has(index)) dispatch.resolve()
      else dispatch.reject(new Error(`the queue refused the message of ${dispatch.jobId}`))
    })
  } catch (error) {
    for (const dispatch of batch) dispatch.reject(error)
  }
}
