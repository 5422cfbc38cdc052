import {
  ChangeMessageVisibilityCommand,
  DeleteMessageCommand,
  ReceiveMessageCommand,
  SQSClient,
  SQSServiceException,
} from '@aws-sdk/client-sqs'
import { z } from 'zod'
import { joinQueues } from './two-queues.ts'

/** Where the queue is and how to speak to it; plain data, so that it can be handed to a thread. */
export interface QueueSettings {
  queueUrl: string
  /** Of jobs that may take a day; asked after the other one. */
  batchQueueUrl?: string
  region: string
  /** Overrides the address, for servers other than AWS. */
  endpoint?: string
  /** Absent: the SDK looks in the usual places. */
  credentials?: { accessKeyId: string; secretAccessKey: string; sessionToken?: string }
}

export interface QueueMessage {
  id: string
  body: string
  /** Names this delivery; the next one has another. */
  receipt: string
  /** Where the spans of its job belong, as it was sent; unchecked. Absent: nobody traces. */
  traceparent?: string
}

export interface Queue {
  /**
   * Waits for one message.
   *
   * @returns null when none came in time
   * @throws when the queue cannot be reached or `signal` is aborted
   */
  receive(options: {
    waitSeconds: number
    visibilitySeconds: number
    signal: AbortSignal
  }): Promise<QueueMessage | null>
  /** Hides a received message for so many seconds from now; 0 shows it at once. */
  extend(receipt: string, seconds: number): Promise<void>
  /** Safe to repeat; with the receipt of an earlier delivery the message may stay. */
  remove(receipt: string): Promise<void>
  close(): void
}

/** Calls that do not wait answer within milliseconds; four tries of this fit between two beats. */
const CALL_TIMEOUT_MS = 5_000
/** On top of the poll's own wait, for the way there and back. */
const POLL_MARGIN_MS = 5_000
/** The queue says that this delivery is over: beating again cannot help. */
const LOST_ERRORS = new Set([
  'ReceiptHandleIsInvalid',
  'MessageNotInflight',
  'InvalidParameterValue',
  'QueueDoesNotExist',
  'AWS.SimpleQueueService.NonExistentQueue',
])

/** A queue on SQS or anything that speaks its protocol. Makes no call yet. */
export function openQueue({ batchQueueUrl, ...settings }: QueueSettings): Queue {
  const queue = openOne(settings)
  if (batchQueueUrl === undefined) return queue
  return joinQueues(queue, openOne({ ...settings, queueUrl: batchQueueUrl }))
}

function openOne(settings: Omit<QueueSettings, 'batchQueueUrl'>): Queue {
  const { queueUrl: QueueUrl, ...rest } = settings
  const client = new SQSClient({ ...rest, maxAttempts: 2 })
  const bound = () => ({ abortSignal: AbortSignal.timeout(CALL_TIMEOUT_MS) })
  return {
    async receive({ waitSeconds, visibilitySeconds, signal }) {
      const timeout = AbortSignal.timeout(waitSeconds * 1_000 + POLL_MARGIN_MS)
      const answer = await client.send(
        new ReceiveMessageCommand({
          QueueUrl,
          MaxNumberOfMessages: 1,
          WaitTimeSeconds: waitSeconds,
          VisibilityTimeout: visibilitySeconds,
          MessageAttributeNames: ['traceparent'],
        }),
        { abortSignal: AbortSignal.any([signal, timeout]) },
      )
      const message = answer.Messages?.[0]
      if (!message?.ReceiptHandle) return null
      const { MessageId: id = '', Body: body = '', ReceiptHandle: receipt } = message
      const traceparent = message.MessageAttributes?.['traceparent']?.StringValue
      return { id, body, receipt, ...(traceparent !== undefined && { traceparent }) }
    },
    async extend(receipt, seconds) {
      const command = new ChangeMessageVisibilityCommand({
        QueueUrl,
        ReceiptHandle: receipt,
        VisibilityTimeout: seconds,
      })
      await client.send(command, bound())
    },
    async remove(receipt) {
      await client.send(new DeleteMessageCommand({ QueueUrl, ReceiptHandle: receipt }), bound())
    },
    close: () => client.destroy(),
  }
}

/** Whether an error means that the delivery is no longer ours, as opposed to a call that failed. */
export function isDeliveryLost(error: unknown): boolean {
  return error instanceof SQSServiceException && LOST_ERRORS.has(error.name)
}

const bodySchema = z.object({ jobId: z.string().min(1).max(64) })

/** The job that a message names, or null for a message that no gateway of ours has written. */
export function readJobId(body: string): string | null {
  try {
    return bodySchema.parse(JSON.parse(body)).jobId
  } catch {
    return null
  }
}
