import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { closeDatabase, openDatabase } from '../../db/client.ts'
import { findFreePort } from '../../infra/local/postgres.ts'
import { NO_OBJECTS, createTestApp } from '../support/app.ts'
import { startTestGateway } from '../support/gateway.ts'
import type { TestGateway } from '../support/gateway.ts'
import { TEST_PEPPER } from '../support/pepper.ts'
import { startQueue } from '../support/queue.ts'
import { createTenant } from '../support/tenant.ts'
import type { Tenant } from '../support/tenant.ts'
import { startWorkerGateway } from '../support/worker-gateway.ts'

const TRACE = '4bf92f3577b34da6a3ce929d0e0e4736'
const TRACEPARENT = `00-${TRACE}-00f067aa0ba902b7-01`

describe.each(['node', 'workerd'] as const)('on %s', (runtime) => {
  let gateway: TestGateway
  let tenant: Tenant
  beforeAll(async () => {
    gateway = await startTestGateway({ runtime })
    tenant = await createTenant(gateway.database.db)
  })
  afterAll(() => gateway.close())

  const originOf = async (jobId: string) => {
    const [row] = await gateway.database.db.sql<{ request: string; trace: string | null }[]>`
      select request_id as request, trace_parent as trace from job where id = ${jobId}`
    return row
  }
  const order = (headers: Record<string, string>) =>
    gateway.call('POST', '/v1/jobs', {
      key: tenant.apiKey,
      body: { prompt: 'A sign' },
      headers,
    })

  test('the status needs no key and names no tenant', async () => {
    const { status, body, headers } = await gateway.call('GET', '/v1/status')
    expect(status).toBe(200)
    expect(headers.get('cache-control')).toBe('public, max-age=5')
    expect(body.status).toBe('operational')
    expect(body.components.database.last_success_at).toBe(body.checked_at)
    expect(JSON.stringify(body)).not.toContain(tenant.orgId)
  })

  test('a browser gets the status as a page that may run nothing', async () => {
    const response = await fetch(`${gateway.url}/v1/status`, {
      headers: { accept: 'text/html,application/xhtml+xml,*/*;q=0.8' },
    })
    expect(response.headers.get('content-type')).toContain('text/html')
    expect(response.headers.get('content-security-policy')).toContain("default-src 'none'")
    expect(response.headers.get('vary')).toContain('accept')
    expect(await response.text()).toContain('All parts work')
  })

  test('many calls for the status cost one look at the database', async () => {
    const seen = await Promise.all(
      Array.from({ length: 40 }, async () => (await gateway.call('GET', '/v1/status')).body),
    )
    // The five seconds of the look that was there may end meanwhile.
    expect(new Set(seen.map((body) => body.checked_at)).size).toBeLessThanOrEqual(2)
  })

  test('a job goes on with its caller’s trace, and knows the request that made it', async () => {
    const before = gateway.finisher.rung.length
    const { body, headers } = await order({ traceparent: TRACEPARENT })
    expect(await originOf(body.id)).toEqual({
      request: headers.get('x-request-id'),
      trace: TRACEPARENT,
    })
    await expect.poll(() => gateway.finisher.rung.slice(before)).toEqual([body.id])
    expect(gateway.finisher.traces.slice(before)).toEqual([TRACEPARENT])
  })

  test.each([
    ['none', {}],
    ['words', { traceparent: 'trace me' }],
    ['a very long one', { traceparent: `00-${TRACE}-00f067aa0ba902b7-01-${'x'.repeat(4_000)}` }],
  ])('%s in place of a trace is passed over', async (_name, headers) => {
    const { status, body } = await order(headers)
    expect(status).toBe(201)
    expect((await originOf(body.id))?.trace).toBeNull()
  })

  test('an equal call is a repeat whatever trace it belongs to', async () => {
    const key = { 'idempotency-key': `traced-${runtime}` }
    const first = await order({ ...key, traceparent: TRACEPARENT })
    const second = await order({ ...key, traceparent: TRACEPARENT.replace('00f0', '11f0') })
    expect([first.status, second.status]).toEqual([201, 200])
    expect(second.body.id).toBe(first.body.id)
  })
})

test('the log of the gateway leads from a request to its job and its trace', async () => {
  const gateway = await startTestGateway()
  try {
    const tenant = await createTenant(gateway.database.db)
    const { body, headers } = await gateway.call('POST', '/v1/jobs', {
      key: tenant.apiKey,
      body: { prompt: 'A sign' },
      headers: { traceparent: TRACEPARENT },
    })
    expect(gateway.logged).toContainEqual({
      level: 'info',
      event: 'job_accepted',
      request_id: headers.get('x-request-id'),
      job: body.id,
      replayed: false,
      trace_id: TRACE,
    })
  } finally {
    await gateway.close()
  }
})

describe('without a database', () => {
  const expectOutage = async (response: Response) => {
    expect(response.status).toBe(503)
    const body = (await response.json()) as {
      status: string
      components: Record<string, { status: string }>
    }
    expect(body.status).toBe('outage')
    expect(body.components['database']?.status).toBe('outage')
    expect(body.components['queue']?.status).toBe('unknown')
  }

  test('the status on Node is 503 and says so', async () => {
    const db = openDatabase(`postgres://nobody@127.0.0.1:${await findFreePort()}/none`)
    await expectOutage(await createTestApp(db, { objects: NO_OBJECTS }).call('GET', '/v1/status'))
    await closeDatabase(db)
  })

  test('and so it is on workerd', async () => {
    const queue = await startQueue()
    const worker = await startWorkerGateway({
      ...queue.env,
      DATABASE_URL: `postgres://nobody@127.0.0.1:${await findFreePort()}/none`,
      KEY_PEPPER: TEST_PEPPER,
      PUBLIC_URL: 'http://127.0.0.1',
      S3_BUCKET: 'pictures',
    })
    try {
      await expectOutage(await fetch(`${worker.url}/v1/status`))
    } finally {
      await worker.stop()
      await queue.close()
    }
  })
})
