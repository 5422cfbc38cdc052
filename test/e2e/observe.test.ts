import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { findFreePort } from '../../infra/local/postgres.ts'
import { startOtlpReceiver } from '../support/otlp-receiver.ts'
import type { OtlpReceiver, ReceivedSpan } from '../support/otlp-receiver.ts'
import { startReceiver } from '../support/receiver.ts'
import type { WebhookReceiver } from '../support/receiver.ts'
import { keyIn, openStack } from '../support/stack.ts'
import type { Stack } from '../support/stack.ts'
import { until } from '../support/worker.ts'

const TRACE = '4bf92f3577b34da6a3ce929d0e0e4736'
const CALLER = '00f067aa0ba902b7'

let stack: Stack
let receiver: WebhookReceiver
let collector: OtlpReceiver
beforeAll(async () => {
  stack = await openStack()
  receiver = await startReceiver()
  collector = await startOtlpReceiver()
})
afterEach(() => stack.stopAll())
afterAll(async () => {
  await stack.close()
  await receiver.close()
  await collector.close()
})

/** Asks for a picture with a text that is read back, and tells the receiver of its end. */
async function order(key: string, headers: Record<string, string> = {}) {
  const response = await fetch(`http://127.0.0.1:${stack.port}/v1/jobs`, {
    method: 'POST',
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json', ...headers },
    body: JSON.stringify({
      prompt: 'A sign that says "OPEN"',
      size: '64x64',
      steps: 2,
      text_guarantee: 'report',
      webhook_url: receiver.url,
    }),
    signal: AbortSignal.timeout(60_000),
  })
  const body = (await response.json()) as { id: string }
  if (response.status !== 201) throw new Error(JSON.stringify(body))
  return { id: body.id, requestId: response.headers.get('x-request-id') }
}

const readLog = async (part: 'gateway' | 'worker') =>
  (await readFile(join(stack.stateDir, `logs/${part}.log`), 'utf8'))
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line) as Record<string, unknown>)

async function readMetrics(text: string): Promise<string> {
  const addresses = text.match(/http:\/\/127\.0\.0\.1:\d+\/metrics/g) ?? []
  expect(addresses).toHaveLength(2)
  const pages = await Promise.all(addresses.map(async (url) => (await fetch(url)).text()))
  return pages.join('\n')
}

/** From a span to the root, by name. */
function pathOf(span: ReceivedSpan): string[] {
  const parent = collector.spans.find(({ spanId }) => spanId === span.parentSpanId)
  return parent === undefined ? [span.name] : [...pathOf(parent), span.name]
}

describe('seen from outside', { timeout: 180_000 }, () => {
  let key = ''

  test('one request is one trace, from the caller through gateway, queue and worker to the webhook', async () => {
    const { text } = await stack.start([], {
      OTEL_EXPORTER_OTLP_ENDPOINT: collector.url,
      OTEL_BSP_SCHEDULE_DELAY: '100',
    })
    key = keyIn(text())
    const job = await order(key, { traceparent: `00-${TRACE}-${CALLER}-01` })
    await receiver.waitFor(1)
    await until(
      () => collector.spans.some(({ name }) => name === 'webhook'),
      () => 'the span of the webhook',
    )
    await until(
      () => collector.spans.some(({ name }) => name === 'attempt'),
      () => 'the span of the attempt',
    )
    const own = collector.spans.filter(({ traceId }) => traceId === TRACE)
    const paths = own.map((span) => `${span.service}: ${pathOf(span).join(' > ')}`)
    const root = 'POST /v1/jobs'
    const attempt = `${root} > send > attempt`
    expect(paths.toSorted()).toEqual(
      [
        `glyphpress-gateway: ${root}`,
        `glyphpress-gateway: ${root} > reserve`,
        `glyphpress-gateway: ${root} > send`,
        `glyphpress-gateway: ${root} > webhook`,
        `glyphpress-worker: ${attempt}`,
        ...['claim', 'draw', 'read_back', 'settle', 'store'].map(
          (name) => `glyphpress-worker: ${attempt} > ${name}`,
        ),
        ...['decode', 'denoise', 'encode', 'glyph', 'tokens'].map(
          (name) => `glyphpress-worker: ${attempt} > draw > ${name}`,
        ),
      ].toSorted(),
    )
    expect(own.filter(({ isError }) => isError)).toEqual([])
    expect(own.find(({ name }) => name === root)?.parentSpanId).toBe(CALLER)
    const sent = own.find(({ name }) => name === 'webhook')
    expect(receiver.received[0]?.headers['traceparent']).toBe(`00-${TRACE}-${sent?.spanId}-01`)

    const found = async (part: 'gateway' | 'worker', event: string) =>
      (await readLog(part)).find((entry) => entry['event'] === event)
    const ids = { request_id: job.requestId, trace_id: TRACE }
    expect(await found('gateway', 'job_accepted')).toMatchObject({ ...ids, job: job.id })
    expect(await found('worker', 'job_end')).toMatchObject({ ...ids, job: job.id })
    expect(await found('gateway', 'webhook_attempt')).toMatchObject({
      ...ids,
      outcome: 'delivered',
      answer: '2xx',
    })

    const figures = await readMetrics(text())
    for (const line of [
      'glyphpress_images_total{outcome="billed",reason=""} 1',
      'glyphpress_queue_deliveries_total{outcome="settled"} 1',
      'glyphpress_queue_wait_seconds_count{priority="standard"} 1',
      'glyphpress_webhook_attempts_total{outcome="delivered",answer="2xx"} 1',
      'glyphpress_webhook_delivery_attempts_sum{outcome="delivered"} 1',
      'glyphpress_workers_seen 1',
      'glyphpress_slots 1',
      ...['claim', 'tokens', 'denoise', 'decode', 'read_back', 'store', 'settle', 'load'].map(
        (stage) => `glyphpress_stage_duration_seconds_count{stage="${stage}"} 1`,
      ),
    ])
      expect(figures.split('\n')).toContain(line)
    expect(figures).toMatch(/^glyphpress_gpu_seconds_total\{provider="cpu"\} 0\.\d+/m)
    expect(figures).toMatch(/glyphpress_sweep_last_success_timestamp_seconds\{part="deliver"\}/)
  })

  test('a collector that is away costs spans and nothing else', async () => {
    const before = receiver.received.length
    await stack.start([], {
      OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${await findFreePort()}`,
      OTEL_BSP_SCHEDULE_DELAY: '100',
      OTEL_EXPORTER_OTLP_TIMEOUT: '500',
    })
    const job = await order(key)
    await receiver.waitFor(before + 1)
    const body = await (await stack.call(`/v1/jobs/${job.id}`, key)).json()
    expect(body).toMatchObject({ state: 'succeeded' })
    const isTold = async (part: 'gateway' | 'worker') =>
      (await readLog(part)).some(({ event }) => event === 'spans_not_sent')
    for (const part of ['gateway', 'worker'] as const) {
      await until(
        () => isTold(part),
        () => `the ${part} to say that its spans were not sent`,
      )
      const events = (await readLog(part)).map(({ event }) => event)
      expect(events).not.toContain('unhandled_rejection')
    }
  })
})
