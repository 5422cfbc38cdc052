import { connect, createServer } from 'node:net'
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createApiKey } from '../../edge/api-key.ts'
import { checkBooks } from '../support/books.ts'
import { startTestGateway } from '../support/gateway.ts'
import type { TestGateway } from '../support/gateway.ts'
import { TEST_PEPPER } from '../support/pepper.ts'
import { createTenant } from '../support/tenant.ts'
import type { Tenant } from '../support/tenant.ts'

/** What is special to the Node entry; the contract itself runs against both runtimes in gateway.test.ts. */
const PATH = '/v1/images/generations'
const ORDER = { prompt: 'A sign' }

describe('a caller that hangs up', () => {
  let gateway: TestGateway
  let tenant: Tenant

  beforeAll(async () => {
    gateway = await startTestGateway()
    tenant = await createTenant(gateway.database.db)
    gateway.finisher.mode = 'hold'
  })
  afterAll(async () => {
    expect(await checkBooks(gateway.database.db)).toEqual([])
    await gateway.close()
  })

  /** Sends an order and hangs up as soon as the worker has heard of it. */
  async function orderAndHangUp(options: { headers?: Record<string, string> } = {}) {
    const heard = gateway.finisher.rung.length
    const hangUp = new AbortController()
    const { signal } = hangUp
    const call = gateway.call('POST', PATH, { key: tenant.apiKey, body: ORDER, signal, ...options })
    await expect.poll(() => gateway.finisher.rung.length).toBe(heard + 1)
    hangUp.abort()
    await expect(call).rejects.toThrow()
    return gateway.finisher.rung.at(-1) ?? ''
  }

  test('and calls again gets the same picture and pays once', async () => {
    const jobId = await orderAndHangUp()
    const again = gateway.call('POST', PATH, { key: tenant.apiKey, body: ORDER })
    await gateway.finisher.finish(jobId)
    const { body, headers } = await again
    expect([body.id, headers.get('idempotent-replayed')]).toEqual([jobId, 'true'])
    const jobs = await gateway.call('GET', '/v1/jobs', { key: tenant.apiKey })
    expect(jobs.body.data).toHaveLength(1)
  })

  test('does not hand its job to another key, another order, or an asynchronous one', async () => {
    const jobId = await orderAndHangUp()
    gateway.finisher.mode = 'draw'
    const stranger = await createTenant(gateway.database.db)
    const others = [
      await gateway.call('POST', PATH, { key: stranger.apiKey, body: ORDER }),
      await gateway.call('POST', PATH, { key: tenant.apiKey, body: { ...ORDER, seed: 1 } }),
      await gateway.call('POST', '/v1/jobs', { key: tenant.apiKey, body: ORDER }),
    ]
    gateway.finisher.mode = 'hold'
    for (const { body } of others) expect(body.id).not.toBe(jobId)
  })
})

describe('a gateway that stops', () => {
  test('answers who waits with the task id, ends, and can be stopped twice', async () => {
    const gateway = await startTestGateway()
    const tenant = await createTenant(gateway.database.db)
    gateway.finisher.mode = 'hold'
    const waiting = gateway.call('POST', PATH, { key: tenant.apiKey, body: ORDER })
    await expect.poll(() => gateway.finisher.rung).toHaveLength(1)
    await gateway.stopGateway()
    const { status, body } = await waiting
    expect([status, body.task_id]).toEqual([504, gateway.finisher.rung[0]])
    await expect(fetch(`${gateway.url}/health/live`)).rejects.toThrow()
    await gateway.stopGateway()
    await gateway.close()
  })
})

describe('a gateway whose queue is down', () => {
  test('accepts jobs, says so in the log, and sends them when the queue is back', async () => {
    let queuePort: number | null = null
    const relay = createServer((socket) => {
      if (queuePort === null) return socket.destroy()
      const upstream = connect(queuePort, '127.0.0.1')
      for (const end of [socket, upstream]) end.on('error', () => end.destroy())
      socket.pipe(upstream).pipe(socket)
    })
    await new Promise<void>((resolve) => relay.listen(0, '127.0.0.1', resolve))
    const { port } = relay.address() as AddressInfo
    const gateway = await startTestGateway({ env: { SQS_ENDPOINT: `http://127.0.0.1:${port}` } })
    const tenant = await createTenant(gateway.database.db)
    const created = await gateway.call('POST', '/v1/jobs', { key: tenant.apiKey, body: ORDER })
    expect([created.status, created.body.state]).toEqual([201, 'accepted'])
    const events = () => gateway.logged.map(({ event }) => event)
    await expect.poll(events, { timeout: 10_000 }).toContain('background_failed')
    expect(gateway.finisher.rung).toEqual([])

    queuePort = Number(new URL(gateway.queue.env.SQS_ENDPOINT ?? '').port)
    // The sweep leaves a message that it has tried alone for a while.
    await gateway.database.db.sql`update outbox set available_at = now() - interval '1 minute'`
    await expect.poll(() => gateway.finisher.rung, { timeout: 10_000 }).toEqual([created.body.id])
    await gateway.close()
    relay.close()
  })
})

describe('unknown keys', () => {
  /** Tries unknown keys until one is refused unseen; `addressOf` gives the header of each. */
  async function flood(gateway: TestGateway, addressOf?: (count: number) => string) {
    for (let count = 0; count < 300; count++) {
      const { key } = await createApiKey(TEST_PEPPER, 'live')
      const headers = addressOf ? { 'x-forwarded-for': addressOf(count) } : {}
      const { status } = await gateway.call('GET', '/v1/balance', { key, headers })
      if (status === 429) return count
    }
    return null
  }

  test('are bounded for each address of a connection; no header changes it', async () => {
    const gateway = await startTestGateway()
    const tenant = await createTenant(gateway.database.db)
    const late = await createTenant(gateway.database.db)
    const read = (key: string) => gateway.call('GET', '/v1/balance', { key })
    expect((await read(tenant.apiKey)).status).toBe(200)
    expect(await flood(gateway, (count) => `192.0.2.${count}`)).toBeGreaterThanOrEqual(120)
    expect((await read(tenant.apiKey)).status).toBe(200)
    const refused = await read(late.apiKey)
    expect([refused.status, refused.body.error.type]).toEqual([429, 'rate_limited'])
    await gateway.close()
  })

  test('behind a proxy that is named are bounded for each address that it wrote', async () => {
    const gateway = await startTestGateway({ env: { CLIENT_ADDRESS_HEADER: 'X-Forwarded-For' } })
    const { apiKey: key } = await createTenant(gateway.database.db)
    const made = (count: number) => `192.0.2.${count}, 198.51.100.1`
    expect(await flood(gateway, made)).toBeGreaterThanOrEqual(120)
    const headers = { 'x-forwarded-for': '198.51.100.2' }
    expect((await gateway.call('GET', '/v1/balance', { key, headers })).status).toBe(200)
    await gateway.close()
  })
})
