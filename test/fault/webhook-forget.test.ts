import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { settleJob } from '../../billing/settle.ts'
import { openDatabase } from '../../db/client.ts'
import { markJobDeleted } from '../../db/jobs.ts'
import { listDeliveries, replayDelivery } from '../../db/webhook-log.ts'
import { insertEndpoint } from '../../db/webhooks.ts'
import { createDeliverySlots, deliverDue } from '../../edge/sweep.ts'
import type { WebhookRequest } from '../../edge/deliver.ts'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { createBareTenant, reserve } from '../support/jobs.ts'
import type { BareTenant } from '../support/jobs.ts'
import { TEST_PEPPER } from '../support/pepper.ts'
import { startWire } from '../support/wire.ts'

/** What the deletion of a job leaves in the webhook log. */
let database: TestDatabase
let tenant: BareTenant
let sent: WebhookRequest[]

beforeAll(async () => {
  database = await createTestDatabase()
})
afterAll(() => database.close())
beforeEach(async () => {
  tenant = await createBareTenant(database.db)
  sent = []
})

const ENDPOINT_URL = 'https://hooks.example/registered'

async function endJob(webhookUrl: string | null): Promise<string> {
  const callerFields = { request_id: 'secret-request', metadata: { note: 'secret-note' } }
  const reserved = await reserve(database.db, tenant, { webhookUrl, callerFields })
  if (!reserved.ok) throw new Error(reserved.reason)
  await settleJob(database.db, { jobId: reserved.jobId, attempt: null, outcome: 'canceled' })
  return reserved.jobId
}

function sweep(statusCode: number): Promise<number> {
  const deps = {
    db: database.db,
    pepper: TEST_PEPPER,
    allowLoopbackWebhooks: false,
    now: () => new Date(Date.now() + 60_000),
    queue: { send: async () => {} },
    sendWebhook: async (request: WebhookRequest) => {
      sent.push(request)
      return { ok: true as const, statusCode, retryAfterSeconds: null }
    },
  }
  return deliverDue(deps, createDeliverySlots())
}

async function everythingOf(orgId: string): Promise<string> {
  const rows = await database.db.sql`
    select to_jsonb(d) as delivery, to_jsonb(e) as event
      from webhook_event e left join webhook_delivery d on d.event_id = e.id where e.org_id = ${orgId}`
  return JSON.stringify(rows)
}

const log = () => listDeliveries(database.db, { orgId: tenant.orgId, limit: 50 })

test.each([
  ['https://hooks.example:8443/secret-path?token=secret-token', 'https://hooks.example:8443'],
  ['https://hooks.example?secret-token', 'https://hooks.example'],
  ['HTTPS://hooks.example#secret', 'HTTPS://hooks.example'],
  ['https:\\\\hooks.example\\secret', ''],
  ['https:hooks.example/secret', ''],
])('of %s nothing but the origin stays, and of the caller nothing', async (url, origin) => {
  const jobId = await endJob(url)
  await sweep(500)
  expect(await everythingOf(tenant.orgId)).toContain('secret')
  await markJobDeleted(database.db, { orgId: tenant.orgId, jobId })
  expect(await everythingOf(tenant.orgId)).not.toContain('secret')
  expect((await log()).map((one) => one.delivery.url)).toEqual([origin])
})

test('what waits for the URL of a deleted job is not sent; registered endpoints still hear of its end', async () => {
  await insertEndpoint(database.db, {
    orgId: tenant.orgId,
    url: ENDPOINT_URL,
    description: null,
    eventTypes: [],
  })
  const other = await endJob('https://hooks.example/secret-path')
  const jobId = await endJob('https://hooks.example/secret-path')
  await markJobDeleted(database.db, { orgId: tenant.orgId, jobId })
  await markJobDeleted(database.db, { orgId: tenant.orgId, jobId })
  expect(await sweep(200)).toBe(3)
  const about = (id: string) => sent.filter((one) => one.body.includes(id))
  expect(about(jobId).map((one) => one.url.href)).toEqual([ENDPOINT_URL])
  expect(JSON.parse(about(jobId)[0]!.body)).toMatchObject({
    type: 'job.canceled',
    data: { job_id: jobId, request_id: null },
  })
  // Another job's events stay as they are.
  expect(about(other)).toHaveLength(2)
  expect(about(other)[0]!.body).toContain('secret-request')
})

describe('a replay', () => {
  test('to the URL of a deleted job is refused, to an endpoint it is not', async () => {
    await insertEndpoint(database.db, {
      orgId: tenant.orgId,
      url: ENDPOINT_URL,
      description: null,
      eventTypes: [],
    })
    const jobId = await endJob('https://hooks.example/secret-path')
    await sweep(200)
    await markJobDeleted(database.db, { orgId: tenant.orgId, jobId })
    for (const { delivery } of await log()) {
      const replayed = await replayDelivery(database.db, {
        orgId: tenant.orgId,
        deliveryId: delivery.id,
        at: new Date(),
      })
      if (delivery.endpointId === null)
        expect(replayed).toEqual({ ok: false, reason: 'job_deleted' })
      else expect(replayed).toMatchObject({ ok: true })
    }
  })

  test('at the moment of the deletion leaves nothing behind, whoever comes first', async () => {
    const jobId = await endJob('https://hooks.example/secret-path')
    const [entry] = await log()
    const wire = await startWire(database.url)
    const db = openDatabase(wire.url)
    const insert = wire.trap({ when: 'before', sql: 'insert into webhook_delivery' })
    const input = { orgId: tenant.orgId, deliveryId: entry!.delivery.id, at: new Date() }
    const replaying = replayDelivery(db, input)
    await insert.reached
    const deleting = markJobDeleted(database.db, { orgId: tenant.orgId, jobId })
    await expect
      .poll(async () => {
        const [row] = await database.db.sql<{ waiting: boolean }[]>`
          select exists (select 1 from pg_stat_activity where wait_event_type = 'Lock'
                          and datname = current_database()) as waiting`
        return row?.waiting
      })
      .toBe(true)
    insert.release()
    expect([(await replaying).ok, (await deleting).ok]).toEqual([true, true])
    expect(await everythingOf(tenant.orgId)).not.toContain('secret')
    expect((await log()).map((one) => one.delivery.state)).toEqual(['canceled', 'canceled'])
    await db.sql.end({ timeout: 0 })
    await wire.close()
  })
})
