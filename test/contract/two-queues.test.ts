import { afterAll, beforeAll, expect, test } from 'vitest'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { createSqsQueue } from '../../edge/enqueue.ts'
import { sendDueDispatches } from '../../edge/sweep.ts'
import type { SweepDeps } from '../../edge/sweep.ts'
import { createBareTenant, reserve } from '../support/jobs.ts'
import { startQueue } from '../support/queue.ts'
import type { TestQueue } from '../support/queue.ts'

let database: TestDatabase
let queue: TestQueue
beforeAll(async () => {
  database = await createTestDatabase()
  queue = await startQueue()
})
afterAll(async () => {
  await queue.close()
  await database.close()
})

const open = (batchQueueUrl?: string) =>
  createSqsQueue(database.db, {
    queueUrl: queue.queueUrl,
    ...(batchQueueUrl === undefined ? {} : { batchQueueUrl }),
    region: 'us-east-1',
    endpoint: new URL(queue.queueUrl).origin,
    credentials: { accessKeyId: 'test', secretAccessKey: 'test' },
  })

test('a job that may take a day rings at its own queue, by the gateway as by the sweep', async () => {
  const two = open(queue.batchQueueUrl)
  await two.send({ outboxId: null, jobId: 'job_a', orgId: 'org_a', priority: 'batch' })
  await two.send({ outboxId: null, jobId: 'job_b', orgId: 'org_a', priority: 'standard' })
  await two.send({ outboxId: null, jobId: 'job_c', orgId: 'org_a' })
  expect([queue.counts('jobs-batch').ready, queue.counts('jobs').ready]).toEqual([1, 2])

  const tenant = await createBareTenant(database.db)
  for (const priority of ['batch', 'standard'] as const) {
    const made = await reserve(database.db, tenant, { priority })
    if (!made.ok) throw new Error(made.reason)
  }
  await database.db.sql`update outbox set available_at = now() - interval '1 minute'`
  await sendDueDispatches({ db: database.db, queue: two } as unknown as SweepDeps)
  expect([queue.counts('jobs-batch').ready, queue.counts('jobs').ready]).toEqual([2, 3])
})

test('without a queue of their own they share the other', async () => {
  const before = queue.counts('jobs').ready
  await open().send({ outboxId: null, jobId: 'job_d', orgId: 'org_a', priority: 'batch' })
  expect(queue.counts('jobs').ready).toBe(before + 1)
})
