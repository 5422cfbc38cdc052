import { CreateQueueCommand, GetQueueAttributesCommand, SQSClient } from '@aws-sdk/client-sqs'
import { ReceiveMessageCommand, SendMessageCommand } from '@aws-sdk/client-sqs'
import { once } from 'node:events'
import { setTimeout as wait } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createSqsQueue } from '../../edge/enqueue.ts'
import { sendDueDispatches } from '../../edge/sweep.ts'
import type { SweepDeps } from '../../edge/sweep.ts'
import { startLeaseKeeper } from '../../gpu-worker/lease.ts'
import { MAX_RECEIVES } from '../../gpu-worker/settings.ts'
import { isDeliveryLost, openQueue, readJobId } from '../../gpu-worker/sqs.ts'
import type { Queue, QueueMessage, QueueSettings } from '../../gpu-worker/sqs.ts'
import { startQueue } from '../../infra/local/queue.ts'
import { ELASTICMQ } from '../servers/elasticmq.ts'
import { isAtHand, openForeign } from '../servers/foreign-server.ts'
import type { ForeignKind, ForeignServer } from '../servers/foreign-server.ts'
import { MOTO } from '../servers/moto.ts'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { createBareTenant, reserve } from '../support/jobs.ts'

// What gateway and worker need of a queue, by every server that there is: the one of `npm start`, and those of others.

const REGION = 'eu-central-1'
const CREDENTIALS = { accessKeyId: 'test', secretAccessKey: 'test' }

const startEmbedded = async (): Promise<ForeignServer> => {
  const queue = await startQueue()
  return { endpoint: queue.endpoint, stop: () => queue.stop() }
}
const startForeignKind = (kind: ForeignKind) => async () => {
  const server = await openForeign(kind)
  if (server === null) throw new Error(`${kind.name} is not here`)
  return server
}
const SUITE = 'the suite of the queue'
const SERVERS = [
  // It serves one machine, and forgets the group of a message in a batch.
  { name: 'the embedded queue', start: startEmbedded, isHere: true, keepsGroups: false },
  {
    name: 'ElasticMQ',
    start: startForeignKind(ELASTICMQ),
    isHere: await isAtHand(ELASTICMQ, SUITE),
    keepsGroups: true,
  },
  {
    name: 'moto',
    start: startForeignKind(MOTO),
    isHere: await isAtHand(MOTO, SUITE),
    keepsGroups: true,
  },
]

describe.each(SERVERS)('$name', { concurrent: true }, ({ start, isHere, keepsGroups }) => {
  let server: ForeignServer
  let client: SQSClient
  let database: TestDatabase
  const opened: Queue[] = []
  beforeAll(async () => {
    if (!isHere) return
    server = await start()
    client = new SQSClient({ endpoint: server.endpoint, region: REGION, credentials: CREDENTIALS })
    database = await createTestDatabase()
  })
  afterAll(async () => {
    for (const queue of opened) queue.close()
    client?.destroy()
    await server?.stop()
    await database?.close()
  })
  const when = test.skipIf(!isHere)

  const place = () => ({ endpoint: server.endpoint, region: REGION, credentials: CREDENTIALS })
  const arnOf = async (QueueUrl: string) => {
    const command = new GetQueueAttributesCommand({ QueueUrl, AttributeNames: ['QueueArn'] })
    return (await client.send(command)).Attributes?.['QueueArn'] ?? ''
  }
  let made = 0
  const create = async (Attributes: Record<string, string> = {}) => {
    const QueueName = `q-${process.pid}-${Date.now()}-${made++}`
    const { QueueUrl = '' } = await client.send(new CreateQueueCommand({ QueueName, Attributes }))
    // Servers name themselves as their settings say; they are asked where they are.
    return new URL(new URL(QueueUrl).pathname, server.endpoint).href
  }
  const createPair = async () => {
    const deadLetterUrl = await create()
    const policy = {
      deadLetterTargetArn: await arnOf(deadLetterUrl),
      maxReceiveCount: MAX_RECEIVES,
    }
    return { deadLetterUrl, queueUrl: await create({ RedrivePolicy: JSON.stringify(policy) }) }
  }
  const open = (queueUrl: string): Queue => {
    const queue = openQueue({ ...place(), queueUrl })
    opened.push(queue)
    return queue
  }
  const openNew = async () => {
    const { queueUrl, deadLetterUrl } = await createPair()
    const send = (jobId: string) =>
      client.send(
        new SendMessageCommand({ QueueUrl: queueUrl, MessageBody: JSON.stringify({ jobId }) }),
      )
    return { queueUrl, deadLetterUrl, send, queue: open(queueUrl) }
  }
  const receive = (queue: Queue, visibilitySeconds: number, waitSeconds = 10) =>
    queue.receive({ waitSeconds, visibilitySeconds, signal: AbortSignal.timeout(30_000) })
  const receiveOne = async (...args: Parameters<typeof receive>): Promise<QueueMessage> => {
    const message = await receive(...args)
    if (message === null) throw new Error('no message came')
    return message
  }
  const failureOf = (call: Promise<unknown>) =>
    call.then(
      () => 'no error',
      (error: unknown) => (isDeliveryLost(error) ? 'lost' : String(error)),
    )

  when('what the gateway sends, more than one call takes, arrives whole and once', async () => {
    const { queueUrl, queue } = await openNew()
    const gateway = createSqsQueue(database.db, { ...place(), queueUrl })
    const ids = Array.from({ length: 25 }, (_, index) => `job_${index}`)
    await Promise.all(ids.map((jobId) => gateway.send({ outboxId: null, jobId, orgId: 'org_a' })))
    const got: string[] = []
    for (let message; (message = await receive(queue, 60, 1)) !== null;) {
      got.push(readJobId(message.body) ?? message.body)
      await queue.remove(message.receipt)
    }
    expect(got.toSorted()).toEqual(ids.toSorted())
  })

  when(
    'a job that may take a day rings at its own queue, by the gateway as by the sweep',
    async () => {
      const [queueUrl, batchQueueUrl] = [await create(), await create()]
      const two = createSqsQueue(database.db, { ...place(), queueUrl, batchQueueUrl })
      await two.send({ outboxId: null, jobId: 'job_a', orgId: 'org_a', priority: 'batch' })
      await two.send({ outboxId: null, jobId: 'job_b', orgId: 'org_a' })
      const tenant = await createBareTenant(database.db)
      for (const priority of ['batch', 'standard'] as const) {
        const job = await reserve(database.db, tenant, { priority })
        if (!job.ok) throw new Error(job.reason)
      }
      await database.db.sql`update outbox set available_at = now() - interval '1 minute'`
      await sendDueDispatches({ db: database.db, queue: two } as unknown as SweepDeps)
      const [row] = await database.db.sql`select count(*)::int from outbox where done_at is null`
      expect(row).toEqual({ count: 0 })
      for (const url of [queueUrl, batchQueueUrl]) {
        const queue = open(url)
        expect(await receive(queue, 60, 1)).not.toBe(null)
        expect(await receive(queue, 60, 1)).not.toBe(null)
        expect(await receive(queue, 60, 1)).toBe(null)
      }
    },
  )

  when('jobs that may take a day share the other queue where they have none', async () => {
    const queueUrl = await create()
    const one = createSqsQueue(database.db, { ...place(), queueUrl })
    await one.send({ outboxId: null, jobId: 'job_d', orgId: 'org_a', priority: 'batch' })
    expect(readJobId((await receiveOne(open(queueUrl), 60)).body)).toBe('job_d')
  })

  test.skipIf(!isHere || !keepsGroups)(
    'the queue is told whose job it is, and the message says so',
    async () => {
      const { queueUrl } = await openNew()
      const gateway = createSqsQueue(database.db, { ...place(), queueUrl })
      await gateway.send({ outboxId: null, jobId: 'job_1', orgId: 'org_42' })
      const { Messages } = await client.send(
        new ReceiveMessageCommand({
          QueueUrl: queueUrl,
          WaitTimeSeconds: 5,
          MessageSystemAttributeNames: ['MessageGroupId'],
        }),
      )
      expect(Messages?.[0]?.Attributes).toEqual({ MessageGroupId: 'org_42' })
    },
  )

  when('a poll ends empty with its wait, and with the message that comes meanwhile', async () => {
    const { send, queue } = await openNew()
    const startedAt = performance.now()
    expect(await receive(queue, 60, 1)).toBe(null)
    expect(performance.now() - startedAt).toBeGreaterThan(900)
    const poll = receiveOne(queue, 60, 20)
    await wait(500)
    await send('job_1')
    // A poll that does not hear of it would end with nothing.
    expect(readJobId((await poll).body)).toBe('job_1')
  })

  when('a poll that is given up loses no message', async () => {
    const { send, queue } = await openNew()
    const leaving = new AbortController()
    const poll = queue.receive({ waitSeconds: 20, visibilitySeconds: 1, signal: leaving.signal })
    await wait(300)
    leaving.abort()
    await expect(poll).rejects.toThrow()
    await send('job_1')
    expect(readJobId((await receiveOne(queue, 60)).body)).toBe('job_1')
  })

  when('a received message is hidden, and comes back under another receipt', async () => {
    const { send, queue } = await openNew()
    await send('job_1')
    const first = await receiveOne(queue, 6)
    expect(await receive(queue, 60, 1)).toBe(null)
    const second = await receiveOne(queue, 60, 20)
    expect([second.id, second.body]).toEqual([first.id, first.body])
    expect(second.receipt).not.toBe(first.receipt)
  })

  when('an extension counts from now, and one of nothing shows the message at once', async () => {
    const { send, queue } = await openNew()
    await send('job_1')
    const { receipt } = await receiveOne(queue, 6)
    await queue.extend(receipt, 60)
    expect(await receive(queue, 60, 8)).toBe(null)
    await queue.extend(receipt, 0)
    expect(readJobId((await receiveOne(queue, 60, 5)).body)).toBe('job_1')
  })

  when('beats keep a message hidden for longer than any of them', async () => {
    const { send, queue, queueUrl } = await openNew()
    const settings: QueueSettings = { ...place(), queueUrl }
    const times = { visibilitySeconds: 8, beatSeconds: 1, attemptSeconds: 60 }
    const keeper = startLeaseKeeper({ queue: settings, times })
    // Its thread is up with its first answer; on a busy machine that takes longer than a message is hidden here.
    const { signal } = keeper.hold('no receipt of this queue')
    await once(signal, 'abort', { signal: AbortSignal.timeout(60_000) })
    await send('job_1')
    const lease = keeper.hold((await receiveOne(queue, 8)).receipt)
    expect(await receive(queue, 60, 12)).toBe(null)
    expect(lease.signal.aborted).toBe(false)
    await keeper.close()
    expect(await receive(queue, 60)).not.toBe(null)
  })

  when('a removed message never comes back, and removing it again is harmless', async () => {
    const { send, queue } = await openNew()
    await send('job_1')
    const { receipt } = await receiveOne(queue, 1)
    await queue.remove(receipt)
    expect(['no error', 'lost']).toContain(await failureOf(queue.remove(receipt)))
    expect(await receive(queue, 60, 2)).toBe(null)
  })

  when('the lease of a message that is gone is lost with its first beat', async () => {
    const { send, queue, queueUrl } = await openNew()
    await send('job_1')
    const { receipt } = await receiveOne(queue, 60)
    await queue.remove(receipt)
    expect(await failureOf(queue.extend(receipt, 60))).toBe('lost')
    expect(await failureOf(queue.extend('no receipt of this queue', 60))).toBe('lost')
    const settings: QueueSettings = { ...place(), queueUrl }
    const times = { visibilitySeconds: 60, beatSeconds: 0.2, attemptSeconds: 60 }
    const keeper = startLeaseKeeper({ queue: settings, times })
    const { signal } = keeper.hold(receipt)
    await once(signal, 'abort', { signal: AbortSignal.timeout(30_000) })
    expect(signal.reason).toBe('lost')
    await keeper.close()
  })

  when('a worker that comes too late takes the message from nobody', async () => {
    const { send, queue } = await openNew()
    await send('job_1')
    const late = await receiveOne(queue, 1)
    const own = await receiveOne(queue, 60)
    // Real queues answer either way; what counts is that the one who has it can finish.
    await failureOf(queue.extend(late.receipt, 30))
    await queue.extend(own.receipt, 60)
    expect(await failureOf(queue.remove(own.receipt))).toBe('no error')
    expect(await receive(queue, 60, 1)).toBe(null)
  })

  when('after so many receipts a message is a dead letter, with the same id and text', async () => {
    const { send, queue, deadLetterUrl } = await openNew()
    await send('job_1')
    let first: QueueMessage | undefined
    for (let count = 0; count < MAX_RECEIVES; count++) {
      const message = await receiveOne(queue, 60)
      first ??= message
      await queue.extend(message.receipt, 0)
    }
    expect(await receive(queue, 60, 1)).toBe(null)
    const letters = open(deadLetterUrl)
    const letter = await receiveOne(letters, 60)
    expect([letter.id, letter.body]).toEqual([first?.id, first?.body])
    await letters.remove(letter.receipt)
    expect(await receive(letters, 60, 1)).toBe(null)
  })

  when('a queue that is not there is an error, of sending as of receiving', async () => {
    const queueUrl = new URL('/000000000000/not-there', server.endpoint).href
    const queue = open(queueUrl)
    expect(await failureOf(receive(queue, 60, 0))).toBe('lost')
    const gateway = createSqsQueue(database.db, { ...place(), queueUrl })
    await expect(gateway.send({ outboxId: null, jobId: 'job_1', orgId: 'org_a' })).rejects.toThrow()
  })
})
