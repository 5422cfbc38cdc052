import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { openQueue } from '../../gpu-worker/sqs.ts'
import type { Queue } from '../../gpu-worker/sqs.ts'
import { openFloor } from '../support/floor.ts'
import { startQueue } from '../support/queue.ts'
import type { TestQueue } from '../support/queue.ts'

let server: TestQueue
let queue: Queue
beforeAll(async () => {
  server = await startQueue()
})
beforeEach(() => {
  server.lose()
  queue = openQueue({
    queueUrl: server.queueUrl,
    batchQueueUrl: server.batchQueueUrl,
    region: 'us-east-1',
    endpoint: new URL(server.queueUrl).origin,
    credentials: { accessKeyId: 'test', secretAccessKey: 'test' },
  })
})
afterAll(() => server.close())

const take = async (waitSeconds = 20) =>
  await queue.receive({ waitSeconds, visibilitySeconds: 60, signal: new AbortController().signal })
const jobOf = (body: string | undefined) => (JSON.parse(body ?? '{}') as { jobId: string }).jobId

test('jobs that somebody waits for go first, and patient ones get a quarter of what is free', async () => {
  for (let index = 0; index < 12; index++) {
    await server.send(`job_prompt${index}`)
    await server.sendBatch(`job_patient${index}`)
  }
  const taken: string[] = []
  for (let index = 0; index < 12; index++) taken.push(jobOf((await take())?.body))
  expect(taken.filter((id) => id.includes('patient'))).toHaveLength(3)
  expect(taken[0]).toContain('prompt')
})

test('never more than one message is in hand for one call', async () => {
  await server.send('job_a')
  await server.sendBatch('job_b')
  await take()
  expect(server.counts('jobs').inflight + server.counts('jobs-batch').inflight).toBe(1)
})

test('a message is answered to the queue that it came from', async () => {
  await server.sendBatch('job_b')
  const message = await take()
  expect(jobOf(message?.body)).toBe('job_b')
  await queue.extend(message?.receipt ?? '', 0)
  expect(server.counts('jobs-batch')).toMatchObject({ ready: 1, inflight: 0 })
  const again = await take()
  await queue.remove(again?.receipt ?? '')
  expect(server.counts('jobs-batch')).toMatchObject({ ready: 0, inflight: 0 })
})

test('between two patient jobs a worker loses no second to the other queue', async () => {
  await server.sendBatch('job_a')
  await server.sendBatch('job_b')
  await server.sendBatch('job_c')
  await take()
  const startedAt = performance.now()
  await take()
  await take()
  // A busy machine is given its time; asking the first queue for long would take five seconds each.
  expect(performance.now() - startedAt).toBeLessThan(2_000)
})

test('a real worker keeps the lease of a patient job, draws it and removes its message', async () => {
  const floor = await openFloor()
  try {
    const worker = await floor.startWorker({ SQS_BATCH_QUEUE_URL: floor.queue.batchQueueUrl })
    const jobId = await floor.newJob({ priority: 'batch' })
    await floor.queue.sendBatch(jobId)
    await floor.untilState(jobId, 'succeeded', worker)
    await expect.poll(() => floor.queue.counts('jobs-batch').inflight).toBe(0)
    expect(floor.queue.counts('jobs-batch').ready).toBe(0)
  } finally {
    await floor.close()
  }
})
