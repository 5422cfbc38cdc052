import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { FLEET_METRICS } from '../../db/fleet-metrics.ts'
import { errorBody } from '../../edge/contract.ts'
import { startTestGateway } from '../support/gateway.ts'
import type { TestGateway } from '../support/gateway.ts'
import { startMetricServer } from '../support/metric-server.ts'
import { TEST_PEPPER } from '../support/pepper.ts'
import { startQueue } from '../support/queue.ts'
import type { TestQueue } from '../support/queue.ts'
import { createTenant } from '../support/tenant.ts'
import { startWorkerGateway } from '../support/worker-gateway.ts'

/** The rest of the contract runs against both runtimes in gateway.test.ts. */
describe('the Worker entry', () => {
  let gateway: TestGateway

  beforeAll(async () => {
    gateway = await startTestGateway({ runtime: 'workerd' })
  })
  afterAll(() => gateway.close())

  test('its cron sends what the queue did not take', async () => {
    const tenant = await createTenant(gateway.database.db)
    const { body } = await gateway.call('POST', '/v1/jobs', {
      key: tenant.apiKey,
      body: { prompt: 'A sign' },
    })
    await expect.poll(() => gateway.finisher.rung).toEqual([body.id])
    // As if the process had died between commit and send.
    await gateway.database.db.sql`
      update outbox set done_at = null, available_at = now() - interval '1 minute'`
    const response = await fetch(`${gateway.url}/cdn-cgi/handler/scheduled`)
    expect(response.status).toBe(200)
    await expect.poll(() => gateway.finisher.rung).toEqual([body.id, body.id])
  })
})

test('the cron publishes from workerd what the fleet is scaled by', async () => {
  const metrics = await startMetricServer()
  const gateway = await startTestGateway({
    runtime: 'workerd',
    env: { METRIC_NAMESPACE: 'Glyphpress/test', CLOUDWATCH_ENDPOINT: metrics.url },
  })
  try {
    const response = await fetch(`${gateway.url}/cdn-cgi/handler/scheduled`)
    expect(response.status).toBe(200)
    for (const name of FLEET_METRICS) expect(metrics.bodies.join('')).toContain(name)
  } finally {
    await gateway.close()
    await metrics.close()
  }
})

describe('the Worker entry without its surroundings', () => {
  let queue: TestQueue
  let worker: { url: string; stop(): Promise<void> }

  beforeAll(async () => {
    queue = await startQueue()
    worker = await startWorkerGateway(
      { ...queue.env, KEY_PEPPER: TEST_PEPPER, DATABASE_URL: 'postgres://u:p@127.0.0.1:1/none' },
      { shieldLimit: 5 },
    )
  })
  afterAll(async () => {
    await worker.stop()
    await queue.close()
  })

  test('says 503 with a wait when the database is down', async () => {
    const response = await fetch(`${worker.url}/health/ready`)
    expect([response.status, response.headers.get('retry-after')]).toEqual([503, '5'])
    expect(await response.json()).toMatchObject({ error: { type: 'unavailable' } })
  })

  test('turns a flood from one address away before it looks at keys', async () => {
    const statuses: number[] = []
    for (let count = 0; count < 12; count++) {
      const response = await fetch(`${worker.url}/v1/jobs`)
      statuses.push(response.status)
      if (response.status === 429) expect(response.headers.get('retry-after')).toBe('10')
      await response.body?.cancel()
    }
    // A window of the counter may end in between, so the exact place of the first refusal is open.
    expect(statuses[0]).toBe(401)
    expect(statuses).toContain(429)
  })
})

test('a Worker whose environment is not complete answers with the error body', async () => {
  const worker = await startWorkerGateway({ KEY_PEPPER: 'too-short' })
  const response = await fetch(`${worker.url}/v1/jobs`)
  const body = errorBody.parse(await response.json())
  expect([response.status, body.error.type]).toEqual([500, 'internal'])
  expect(response.headers.get('x-request-id')).toBe(body.request_id)
  await worker.stop()
})
