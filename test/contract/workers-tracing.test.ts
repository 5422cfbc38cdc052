import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { parseWorkersEnv } from '../../edge/env.ts'
import { startTestGateway } from '../support/gateway.ts'
import type { TestGateway } from '../support/gateway.ts'
import { startOtlpReceiver } from '../support/otlp-receiver.ts'
import type { OtlpReceiver } from '../support/otlp-receiver.ts'
import { TEST_PEPPER } from '../support/pepper.ts'
import { createTenant } from '../support/tenant.ts'
import type { Tenant } from '../support/tenant.ts'

const TRACE = '4bf92f3577b34da6a3ce929d0e0e4736'
const CALLER = '00f067aa0ba902b7'

describe('the Worker with a collector', () => {
  let collector: OtlpReceiver
  let gateway: TestGateway
  let tenant: Tenant

  beforeAll(async () => {
    collector = await startOtlpReceiver()
    gateway = await startTestGateway({
      runtime: 'workerd',
      env: {
        OTEL_EXPORTER_OTLP_ENDPOINT: collector.url,
        OTEL_EXPORTER_OTLP_HEADERS: 'authorization=Bearer%20abc',
        OTEL_SERVICE_NAME: 'edge',
      },
    })
    tenant = await createTenant(gateway.database.db)
  })
  beforeEach(() => {
    collector.spans.length = 0
  })
  afterAll(async () => {
    await gateway.close()
    await collector.close()
  })

  const order = (headers: Record<string, string> = {}) =>
    gateway.call('POST', '/v1/jobs', { key: tenant.apiKey, body: { prompt: 'A sign' }, headers })
  const named = (name: string) => collector.spans.filter((span) => span.name === name)

  test('begins a trace for a call without one, and its message and its job go on with it', async () => {
    const rung = gateway.finisher.traces.length
    const { body, headers } = await order()
    await expect
      .poll(() => collector.spans.map(({ name }) => name).toSorted())
      .toEqual(['POST /v1/jobs', 'reserve', 'send'])
    const [[call], [reserve], [send]] = [named('POST /v1/jobs'), named('reserve'), named('send')]
    expect(call).toMatchObject({ service: 'edge', parentSpanId: '', isError: false })
    expect(call?.attributes).toMatchObject({
      'http.response.status_code': 201,
      'glyphpress.request_id': headers.get('x-request-id'),
    })
    expect(reserve).toMatchObject({ traceId: call?.traceId, parentSpanId: call?.spanId })
    expect(reserve?.attributes).toMatchObject({
      'glyphpress.job_id': body.id,
      'glyphpress.outcome': 'accepted',
    })
    expect(send).toMatchObject({ traceId: call?.traceId, parentSpanId: call?.spanId })
    await expect
      .poll(() => gateway.finisher.traces.slice(rung))
      .toEqual([`00-${call?.traceId}-${send?.spanId}-01`])
    expect(new Set(collector.authorizations)).toEqual(new Set(['Bearer abc']))
  })

  test('goes on with the caller’s trace, each of many at once with its own', async () => {
    const traces = Array.from({ length: 8 }, (_, index) => TRACE.slice(0, 31) + index)
    await Promise.all(traces.map((trace) => order({ traceparent: `00-${trace}-${CALLER}-01` })))
    await expect.poll(() => collector.spans.length).toBe(24)
    for (const call of named('POST /v1/jobs')) {
      expect([traces.includes(call.traceId), call.parentSpanId]).toEqual([true, CALLER])
      for (const name of ['reserve', 'send']) {
        const own = named(name).filter(({ parentSpanId }) => parentSpanId === call.spanId)
        expect(own.map(({ traceId }) => traceId)).toEqual([call.traceId])
      }
    }
  })

  test('keeps nothing of a trace that its caller does not keep, and hands it on', async () => {
    const rung = gateway.finisher.traces.length
    await order({ traceparent: `00-${TRACE}-${CALLER}-00` })
    await order()
    await expect.poll(() => named('send').length).toBe(1)
    expect(collector.spans.map(({ traceId }) => traceId)).not.toContain(TRACE)
    const unkept = expect.stringMatching(new RegExp(`^00-${TRACE}-[0-9a-f]{16}-00$`))
    await expect.poll(() => gateway.finisher.traces.slice(rung)).toContainEqual(unkept)
  })

  test('a message that its cron sends is in the trace of the call', async () => {
    const { body } = await order({ traceparent: `00-${TRACE}-${CALLER}-01` })
    await expect.poll(() => named('send').length).toBe(1)
    // As if the process had died between commit and send.
    await gateway.database.db.sql`
      update outbox set done_at = null, available_at = now() - interval '1 minute'
       where payload->>'job_id' = ${body.id}`
    const response = await fetch(`${gateway.url}/cdn-cgi/handler/scheduled`)
    expect(response.status).toBe(200)
    const [call] = named('POST /v1/jobs')
    await expect
      .poll(() => named('send').map(({ traceId, parentSpanId }) => [traceId, parentSpanId]))
      .toEqual([1, 2].map(() => [TRACE, call?.spanId]))
  })

  test('answers as ever when the collector is gone', async () => {
    await collector.close()
    const { status, body } = await order()
    expect(status).toBe(201)
    await expect.poll(() => gateway.finisher.rung).toContain(body.id)
  })
})

describe('what a Worker is told of its collector', () => {
  const parse = (more: Record<string, string>) =>
    parseWorkersEnv({
      KEY_PEPPER: TEST_PEPPER,
      DATABASE_URL: 'postgres://u:p@db/x',
      PUBLIC_URL: 'https://images.example.com',
      SQS_QUEUE_URL: 'https://sqs.example.com/jobs',
      S3_BUCKET: 'pictures',
      AWS_ACCESS_KEY_ID: 'a',
      AWS_SECRET_ACCESS_KEY: 'b',
      ...more,
    })

  test('headers are pairs in percent-encoding', () => {
    const { OTEL_EXPORTER_OTLP_HEADERS: headers } = parse({
      OTEL_EXPORTER_OTLP_HEADERS: 'Authorization=Basic%20a%3D%3D, x-team = blue,',
    })
    expect(headers).toEqual({ authorization: 'Basic a==', 'x-team': 'blue' })
  })

  test.each([
    ['OTEL_EXPORTER_OTLP_HEADERS', 'Bearer abc', 'must be name=value pairs'],
    ['OTEL_EXPORTER_OTLP_HEADERS', 'a=%E0%A4%A', 'must be name=value pairs'],
    ['OTEL_EXPORTER_OTLP_HEADERS', 'not a name=1', 'must be name=value pairs'],
    ['OTEL_EXPORTER_OTLP_ENDPOINT', 'collector:4318', 'OTEL_EXPORTER_OTLP_ENDPOINT'],
    ['OTEL_TRACES_SAMPLER_ARG', '1.5', 'OTEL_TRACES_SAMPLER_ARG'],
  ])('%s=%s is refused by name', (name, value, said) => {
    expect(() => parse({ [name]: value })).toThrow(name)
    expect(() => parse({ [name]: value })).toThrow(said)
  })
})
