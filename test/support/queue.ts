import { ChangeMessageVisibilityCommand, SendMessageCommand, SQSClient } from '@aws-sdk/client-sqs'
import { buildApp } from 'fauxqs'
// The server's stores are not exported; only they show what is hidden from receivers.
import { S3Store } from '../../node_modules/fauxqs/dist/s3/s3Store.js'
import { SnsStore } from '../../node_modules/fauxqs/dist/sns/snsStore.js'
import { SqsStore } from '../../node_modules/fauxqs/dist/sqs/sqsStore.js'
import { MAX_RECEIVES, VISIBILITY_SECONDS } from '../../gpu-worker/settings.ts'

/** What the queue server wants to see and does not check. */
const CREDENTIALS = { accessKeyId: 'test', secretAccessKey: 'test' }
const REGION = 'us-east-1'
const UNKNOWN_RECEIPT = {
  __type: 'com.amazonaws.sqs#ReceiptHandleIsInvalid',
  message: 'The receipt handle has expired.',
}

export type QueueAction = 'ReceiveMessage' | 'DeleteMessage' | 'ChangeMessageVisibility'

export interface QueueCounts {
  ready: number
  inflight: number
  dead: number
}

export interface TestQueue {
  queueUrl: string
  deadLetterUrl: string
  /** For jobs that may take a day; in no environment unless a test puts it there. */
  batchQueueUrl: string
  /** What a gateway or worker needs in its environment to use this queue. */
  env: Record<string, string>
  /** Rings for a job, as the gateway does. */
  send(jobId: string): Promise<void>
  /** The same for a job that may take a day. */
  sendBatch(jobId: string): Promise<void>
  /** A message that no gateway has written. */
  sendText(body: string): Promise<void>
  /** Puts a message for a job straight among the dead letters. */
  bury(jobId: string): Promise<void>
  counts(name?: 'jobs' | 'jobs-batch'): QueueCounts
  /** Makes the visibility of every received message run out now. */
  expireVisibility(): Promise<void>
  /** Ends every waiting poll empty: one of a killed process would still swallow a message. */
  dropPolls(): void
  /** Forgets all messages, as a queue in memory does when its process ends. */
  lose(): void
  /**
   * Calls `then` once, before the server does the next call of this action; while the promise is open the
   * call has not happened. `'refuse'` answers that the receipt is not known.
   */
  intercept(action: QueueAction, then: () => Promise<'refuse' | 'pass'>): void
  close(): Promise<void>
}

/** An SQS server in memory on a free loopback port with the product's queue and its dead letters. */
export async function startQueue(): Promise<TestQueue> {
  const stores = { sqsStore: new SqsStore(), snsStore: new SnsStore(), s3Store: new S3Store() }
  const app = buildApp({ logger: false, host: '127.0.0.1', stores })
  const waiting = new Map<string, () => Promise<'refuse' | 'pass'>>()
  app.addHook('onRequest', async (request, reply) => {
    const action = String(request.headers['x-amz-target']).split('.')[1] ?? ''
    const then = waiting.get(action)
    waiting.delete(action)
    if (!then || (await then()) === 'pass') return
    await reply.code(400).type('application/x-amz-json-1.0').send(UNKNOWN_RECEIPT)
  })
  const endpoint = await app.listen({ port: 0, host: '127.0.0.1' })
  const urlOf = (name: string) => `${endpoint}/000000000000/${name}`
  const arnOf = (name: string) => `arn:aws:sqs:${REGION}:000000000000:${name}`
  stores.sqsStore.createQueue('jobs-dead', urlOf('jobs-dead'), arnOf('jobs-dead'), {})
  for (const name of ['jobs', 'jobs-batch']) {
    stores.sqsStore.createQueue(name, urlOf(name), arnOf(name), {
      VisibilityTimeout: String(VISIBILITY_SECONDS),
      RedrivePolicy: JSON.stringify({
        deadLetterTargetArn: arnOf('jobs-dead'),
        maxReceiveCount: MAX_RECEIVES,
      }),
    })
  }
  const client = new SQSClient({ endpoint, region: REGION, credentials: CREDENTIALS })
  const sendTo = async (QueueUrl: string, MessageBody: string) => {
    await client.send(new SendMessageCommand({ QueueUrl, MessageBody }))
  }
  return {
    queueUrl: urlOf('jobs'),
    deadLetterUrl: urlOf('jobs-dead'),
    batchQueueUrl: urlOf('jobs-batch'),
    env: {
      SQS_QUEUE_URL: urlOf('jobs'),
      SQS_DLQ_URL: urlOf('jobs-dead'),
      SQS_ENDPOINT: endpoint,
      AWS_REGION: REGION,
      AWS_ACCESS_KEY_ID: CREDENTIALS.accessKeyId,
      AWS_SECRET_ACCESS_KEY: CREDENTIALS.secretAccessKey,
    },
    sendBatch: (jobId) => sendTo(urlOf('jobs-batch'), JSON.stringify({ jobId })),
    send: (jobId) => sendTo(urlOf('jobs'), JSON.stringify({ jobId })),
    sendText: (body) => sendTo(urlOf('jobs'), body),
    bury: (jobId) => sendTo(urlOf('jobs-dead'), JSON.stringify({ jobId })),
    counts(name = 'jobs') {
      const jobs = stores.sqsStore.inspectQueue(name)?.messages
      const buried = stores.sqsStore.inspectQueue('jobs-dead')?.messages
      return {
        ready: (jobs?.ready.length ?? 0) + (jobs?.delayed.length ?? 0),
        inflight: jobs?.inflight.length ?? 0,
        dead: (buried?.ready.length ?? 0) + (buried?.inflight.length ?? 0),
      }
    },
    async expireVisibility() {
      for (const { receiptHandle } of stores.sqsStore.inspectQueue('jobs')?.messages.inflight ??
        []) {
        await client.send(
          new ChangeMessageVisibilityCommand({
            QueueUrl: urlOf('jobs'),
            ReceiptHandle: receiptHandle,
            VisibilityTimeout: 0,
          }),
        )
      }
    },
    dropPolls() {
      for (const queue of stores.sqsStore.allQueues()) queue.cancelWaiters()
    },
    lose: () => stores.sqsStore.clearMessages(),
    intercept: (action, then) => void waiting.set(action, then),
    async close() {
      client.destroy()
      app.server.closeAllConnections()
      await app.close()
    },
  }
}
