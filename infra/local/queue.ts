import { CreateQueueCommand, GetQueueAttributesCommand, SQSClient } from '@aws-sdk/client-sqs'
import { buildApp } from 'fauxqs'
import { MAX_RECEIVES, VISIBILITY_SECONDS } from '../../gpu-worker/settings.ts'

export interface LocalQueue {
  /** Address of the server, on loopback. */
  readonly endpoint: string
  readonly queueUrl: string
  readonly deadLetterUrl: string
  readonly region: string
  /** What gateway and worker need in their environment; keys of AWS are left to the bucket. */
  readonly env: Record<string, string>
  stop(): Promise<void>
}

/** The server asks for credentials but does not check them; it can be reached from this machine alone. */
export const LOCAL_CREDENTIALS = { accessKeyId: 'local', secretAccessKey: 'local' }
const REGION = 'us-east-1'

/**
 * Starts a queue server that speaks the SQS protocol, in memory and on loopback. What it holds is gone when
 * it stops; the database knows which jobs are unfinished, and the sweep sends them again.
 */
export async function startQueue(port = 0): Promise<LocalQueue> {
  const app = buildApp({ logger: false })
  const endpoint = await app.listen({ port, host: '127.0.0.1' })
  const client = new SQSClient({ endpoint, region: REGION, credentials: LOCAL_CREDENTIALS })
  const urlOf = (name: string) => `${endpoint}/000000000000/${name}`
  try {
    await client.send(new CreateQueueCommand({ QueueName: 'jobs-dead' }))
    const dead = await client.send(
      new GetQueueAttributesCommand({ QueueUrl: urlOf('jobs-dead'), AttributeNames: ['QueueArn'] }),
    )
    await client.send(
      new CreateQueueCommand({
        QueueName: 'jobs',
        Attributes: {
          VisibilityTimeout: String(VISIBILITY_SECONDS),
          RedrivePolicy: JSON.stringify({
            deadLetterTargetArn: dead.Attributes?.QueueArn,
            maxReceiveCount: MAX_RECEIVES,
          }),
        },
      }),
    )
  } finally {
    client.destroy()
  }
  return {
    endpoint,
    queueUrl: urlOf('jobs'),
    deadLetterUrl: urlOf('jobs-dead'),
    region: REGION,
    env: {
      SQS_QUEUE_URL: urlOf('jobs'),
      SQS_DLQ_URL: urlOf('jobs-dead'),
      SQS_ENDPOINT: endpoint,
      SQS_REGION: REGION,
      SQS_ACCESS_KEY_ID: LOCAL_CREDENTIALS.accessKeyId,
      SQS_SECRET_ACCESS_KEY: LOCAL_CREDENTIALS.secretAccessKey,
    },
    async stop() {
      // Open long polls would keep the server up for twenty seconds.
      app.server.closeAllConnections()
      await app.close()
    },
  }
}
