import { createServer } from 'node:net'
import type { AddressInfo } from 'node:net'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { settleJob } from '../../billing/settle.ts'
import { listDeliveries } from '../../db/webhook-log.ts'
import { ATTEMPT_TIMEOUT_MS } from '../../edge/deliver.ts'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { createBareTenant, reserve } from '../support/jobs.ts'
import { TEST_PEPPER } from '../support/pepper.ts'
import { startReceiver } from '../support/receiver.ts'
import { startWire } from '../support/wire.ts'
import { killAll, spawnScript, until } from '../support/worker.ts'
import type { TestProcess } from '../support/worker.ts'

/** The process of the Node entry: how it lives through errors and how it ends. */
let database: TestDatabase

beforeAll(async () => {
  database = await createTestDatabase()
})
afterEach(killAll)
afterAll(() => database.close())

/** No queue answers there; jobs stay in the outbox. */
const NOWHERE = 'http://127.0.0.1:1'

function spawnGateway(env: Record<string, string> = {}): TestProcess {
  return spawnScript('edge/node.ts', {
    env: {
      DATABASE_URL: database.url,
      KEY_PEPPER: TEST_PEPPER,
      PUBLIC_URL: 'https://images.example',
      SQS_QUEUE_URL: `${NOWHERE}/jobs`,
      SQS_ENDPOINT: NOWHERE,
      AWS_ACCESS_KEY_ID: 'test',
      AWS_SECRET_ACCESS_KEY: 'test',
      OBJECT_DIR: '/nowhere',
      WEBHOOK_ALLOW_LOOPBACK: '1',
      PORT: '0',
      ...env,
    },
  })
}

/** The first line of this event. */
async function logged(gateway: TestProcess, event: string) {
  const find = () => gateway.log.find((line) => line.event === event)
  await until(
    () => find() !== undefined,
    () => `"${event}" in:\n${gateway.output()}`,
  )
  return find() ?? {}
}

test('a rejection that nobody awaits is one line of the log, and the gateway goes on', async () => {
  const code = `process.on('SIGUSR2',()=>{Promise.reject(Error('lost-work'))})`
  const gateway = spawnGateway({ NODE_OPTIONS: `--import=data:text/javascript,${code}` })
  const { url } = await logged(gateway, 'listening')
  gateway.kill('SIGUSR2')
  expect(await logged(gateway, 'unhandled_rejection')).toMatchObject({
    level: 'error',
    error: expect.stringContaining('lost-work'),
  })
  expect((await fetch(`${String(url)}/health/ready`)).status).toBe(200)
  gateway.kill('SIGTERM')
  expect(await gateway.ended).toEqual({ code: 0, signal: null })
})

test('a gateway whose port is taken says so and ends', async () => {
  const taken = createServer()
  await new Promise<void>((resolve) => taken.listen(0, '127.0.0.1', resolve))
  const { port } = taken.address() as AddressInfo
  const gateway = spawnGateway({ PORT: String(port) })
  expect(await gateway.ended).toEqual({ code: 1, signal: null })
  expect(gateway.output()).toContain('EADDRINUSE')
  taken.close()
})

describe('a gateway told to stop', () => {
  test('does not wait for a receiver that hangs; its delivery is left to the lease, with nothing on record', async () => {
    const receiver = await startReceiver()
    receiver.answer = () => {}
    const tenant = await createBareTenant(database.db)
    const reserved = await reserve(database.db, tenant, { webhookUrl: receiver.url })
    if (!reserved.ok) throw new Error(reserved.reason)
    await settleJob(database.db, { jobId: reserved.jobId, attempt: null, outcome: 'canceled' })
    const gateway = spawnGateway()
    await receiver.waitFor(1)
    const startMs = performance.now()
    gateway.kill('SIGTERM')
    expect(await gateway.ended).toEqual({ code: 0, signal: null })
    expect(performance.now() - startMs).toBeLessThan(ATTEMPT_TIMEOUT_MS / 2)
    const [entry] = await listDeliveries(database.db, { orgId: tenant.orgId, limit: 1 })
    expect(entry).toMatchObject({ delivery: { state: 'pending', attempts: 1 }, attempts: [] })
    await receiver.close()
  })

  test('ends within its bound, and says that it was cut short, when the database does not answer', async () => {
    const wire = await startWire(database.url)
    const claim = wire.trap({ when: 'before', sql: 'taken as' })
    const gateway = spawnGateway({ DATABASE_URL: wire.url })
    await claim.reached
    gateway.kill('SIGTERM')
    expect(await gateway.ended).toEqual({ code: 1, signal: null })
    expect(gateway.log.at(-1)).toMatchObject({ event: 'stop_timed_out', after_ms: 5_000 })
    await wire.close()
  })
})
