import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { restageDispatch, takeDueDispatches } from '../../db/outbox.ts'
import { restageJob } from '../../db/restage-job.ts'
import { claimDueDeliveries } from '../../db/webhook-attempts.ts'
import { createSqsQueue } from '../../edge/enqueue.ts'
import { parseNodeEnv, queuePlace, queueUrls } from '../../edge/env.ts'
import { openQueue } from '../../gpu-worker/sqs.ts'
import type { QueueMessage } from '../../gpu-worker/sqs.ts'
import { openFloor } from '../support/floor.ts'
import type { Floor } from '../support/floor.ts'
import { startOtlpReceiver } from '../support/otlp-receiver.ts'
import type { OtlpReceiver } from '../support/otlp-receiver.ts'
import { TEST_PEPPER } from '../support/pepper.ts'
import { childrenOf, until } from '../support/worker.ts'

const TRACE = '4bf92f3577b34da6a3ce929d0e0e4736'
const CALLER = '00f067aa0ba902b7'
const TRACEPARENT = `00-${TRACE}-${CALLER}-01`

let floor: Floor
let collector: OtlpReceiver
beforeAll(async () => {
  floor = await openFloor()
  collector = await startOtlpReceiver()
})
afterEach(() => floor.clear())
afterAll(async () => {
  await floor.close()
  await collector.close()
})

function openSender() {
  const env = parseNodeEnv({
    ...floor.queue.env,
    DATABASE_URL: floor.databaseUrl,
    KEY_PEPPER: TEST_PEPPER,
    PUBLIC_URL: 'http://127.0.0.1:1',
    OBJECT_DIR: floor.objectDir,
  })
  return createSqsQueue(floor.db, { ...queueUrls(env), ...queuePlace(env) })
}

/** Sends what is due as the sweep does, with what the database knows of its trace. */
async function sendDue(): Promise<void> {
  const due = await takeDueDispatches(floor.db, { limit: 100, graceSeconds: 0 })
  const sender = openSender()
  await Promise.all(due.map(({ id, ...message }) => sender.send({ outboxId: id, ...message })))
}

async function receive(): Promise<QueueMessage | null> {
  const queue = openQueue({
    queueUrl: floor.queue.queueUrl,
    region: 'us-east-1',
    endpoint: floor.queue.env.SQS_ENDPOINT ?? '',
    credentials: { accessKeyId: 'test', secretAccessKey: 'test' },
  })
  const message = await queue.receive({
    waitSeconds: 0,
    visibilitySeconds: 30,
    signal: new AbortController().signal,
  })
  queue.close()
  return message
}

describe('the trace of a job', () => {
  test('is in its message, and in every later one when the queue lost it', async () => {
    const jobId = await floor.newJob({ traceparent: TRACEPARENT })
    await sendDue()
    expect(await receive()).toMatchObject({ traceparent: TRACEPARENT })

    floor.queue.lose()
    await floor.db.sql`
      update job set created_at = now() - interval '1 hour', dispatched_at = now() - interval '1 hour'
       where id = ${jobId}`
    expect(await restageDispatch(floor.db, { olderThanSeconds: 900, limit: 10 })).toBe(1)
    await sendDue()
    expect(await receive()).toMatchObject({ traceparent: TRACEPARENT })

    floor.queue.lose()
    await restageJob(floor.db, { jobId, letterId: 'letter', maxFailedAttempts: 3 })
    await sendDue()
    expect(await receive()).toMatchObject({ traceparent: TRACEPARENT })
  })

  test('is no part of a message where there is none', async () => {
    await floor.newJob()
    await sendDue()
    expect(await receive()).not.toHaveProperty('traceparent')
  })

  test('is known to whoever sends its webhook, with the request that made it', async () => {
    const jobId = await floor.newJob({
      traceparent: TRACEPARENT,
      requestId: 'req_1',
      webhookUrl: 'https://receiver.example/hook',
    })
    await floor.db.sql`
      select settle_job(jsonb_build_object('job_id', ${jobId}::text, 'attempt', null, 'outcome', 'canceled'))`
    const [delivery] = await claimDueDeliveries(floor.db, {
      now: new Date(Date.now() + 1_000),
      limit: 1,
      leaseSeconds: 60,
    })
    expect(delivery).toMatchObject({ requestId: 'req_1', traceparent: TRACEPARENT })
  })
})

test('every try of a job is a span of its own in its trace, also one that crashed', async () => {
  await floor.db.sql`update outbox set done_at = now()`
  const jobId = await floor.newJob({
    traceparent: TRACEPARENT,
    requestId: 'req_2',
    steps: 100,
    width: 512,
    height: 512,
  })
  await sendDue()
  const worker = await floor.startWorker({
    OTEL_EXPORTER_OTLP_ENDPOINT: collector.url,
    OTEL_BSP_SCHEDULE_DELAY: '100',
    OTEL_SERVICE_NAME: 'drawer',
  })
  await floor.untilState(jobId, 'running', worker)
  await floor.db.sql`update job set steps = 2 where id = ${jobId}`
  for (const engine of childrenOf(worker.pid)) process.kill(engine, 'SIGKILL')
  await floor.untilState(jobId, 'succeeded', worker)

  const attempts = () => collector.spans.filter(({ name }) => name === 'attempt')
  await until(
    () => attempts().length === 2,
    () => `two attempts, there are ${JSON.stringify(attempts())}`,
  )
  const told = attempts().map(({ service, traceId, parentSpanId, attributes }) => [
    service,
    traceId,
    parentSpanId,
    attributes['glyphpress.job_id'],
    attributes['glyphpress.attempt'],
    attributes['glyphpress.outcome'],
    attributes['glyphpress.request_id'],
  ])
  expect(told).toEqual([
    ['drawer', TRACE, CALLER, jobId, 1, 'given_back', 'req_2'],
    ['drawer', TRACE, CALLER, jobId, 2, 'settled', 'req_2'],
  ])
  const draws = collector.spans.filter(({ name }) => name === 'draw')
  expect(draws.map(({ isError, attributes }) => [isError, attributes['glyphpress.error']])).toEqual(
    [
      [true, 'engine_crashed'],
      [false, undefined],
    ],
  )
  for (const event of ['attempt_failed', 'job_end']) {
    const line = worker.log.find((entry) => entry.event === event)
    expect(line).toMatchObject({ job: jobId, request_id: 'req_2', trace_id: TRACE })
  }
})
