import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { settleJob } from '../../billing/settle.ts'
import { claimJob } from '../../db/job-claims.ts'
import { pruneDispatches, pruneWebhookLog } from '../../db/retention.ts'
import { listDeliveries, replayDelivery } from '../../db/webhook-log.ts'
import { createDeliverySlots, deliverDue, sweepOnce } from '../../edge/sweep.ts'
import type { SweepDeps } from '../../edge/sweep.ts'
import { NO_OBJECTS } from '../support/app.ts'
import { checkBooks } from '../support/books.ts'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { createBareTenant, deliver, reserve } from '../support/jobs.ts'
import type { BareTenant } from '../support/jobs.ts'
import { TEST_PEPPER } from '../support/pepper.ts'

/** What is removed after its time, and what is not. */
const DAY_SECONDS = 86_400
const WEEK = { olderThanSeconds: 7 * DAY_SECONDS, limit: 100 }
const MONTH = { olderThanSeconds: 30 * DAY_SECONDS, limit: 100 }
let database: TestDatabase
let tenant: BareTenant

beforeAll(async () => {
  database = await createTestDatabase()
})
afterAll(() => database.close())
beforeEach(async () => {
  const { sql } = database.db
  await sql`truncate outbox, webhook_event, webhook_delivery, webhook_attempt`
  tenant = await createBareTenant(database.db)
})

/** A job that drew a picture so many days ago and told its URL of it. */
async function endJobDaysAgo(days: number): Promise<string> {
  const { db } = database
  const reserved = await reserve(db, tenant, { webhookUrl: 'https://hooks.example/in' })
  if (!reserved.ok) throw new Error(reserved.reason)
  const { jobId } = reserved
  await claimJob(db, { jobId, workerId: 'w', leaseSeconds: 60, maxFailedAttempts: 3 })
  await deliver(db, jobId, 1)
  await settleJob(db, { jobId, attempt: 1, outcome: 'succeeded' })
  await deliverDue(deps(), createDeliverySlots())
  await db.sql`update outbox set done_at = now() where payload->>'job_id' = ${jobId}`
  await shiftBack(days, jobId)
  return jobId
}

/** As if all of the job had been some days earlier. */
async function shiftBack(days: number, jobId: string): Promise<void> {
  const { sql } = database.db
  const ago = `${days} days`
  await sql`
    update job set created_at = created_at - ${ago}::interval, finished_at = finished_at - ${ago}::interval
     where id = ${jobId}`
  await sql`
    update outbox set done_at = done_at - ${ago}::interval where payload->>'job_id' = ${jobId}`
  await sql`
    update webhook_delivery d set created_at = d.created_at - ${ago}::interval
      from webhook_event e where e.id = d.event_id and e.subject_id = ${jobId}`
  await sql`
    update webhook_event set created_at = created_at - ${ago}::interval where subject_id = ${jobId}`
}

function deps(): SweepDeps {
  return {
    db: database.db,
    pepper: TEST_PEPPER,
    allowLoopbackWebhooks: false,
    now: () => new Date(Date.now() + 60_000),
    queue: { send: async () => {} },
    objects: NO_OBJECTS,
    sendWebhook: async () => ({ ok: true, statusCode: 200, retryAfterSeconds: null }),
  }
}

async function count(table: string): Promise<number> {
  const [row] = await database.db.sql<{ rows: number }[]>`
    select count(*)::int as rows from ${database.db.sql(table)}`
  return row?.rows ?? 0
}

async function jobsOf(table: 'outbox' | 'webhook_event'): Promise<string[]> {
  const column = table === 'outbox' ? "payload->>'job_id'" : 'subject_id'
  const rows = await database.db.sql.unsafe<{ id: string }[]>(
    `select ${column} as id from ${table} order by 1`,
  )
  return rows.map(({ id }) => id)
}

test('the sweep removes what is older than its time, and the books still balance', async () => {
  await endJobDaysAgo(31)
  const middle = await endJobDaysAgo(8)
  const young = await endJobDaysAgo(6)
  expect(await sweepOnce(deps())).toMatchObject({ prune: 3 })
  expect(await jobsOf('outbox')).toEqual([young])
  expect(await jobsOf('webhook_event')).toEqual([middle, young].toSorted())
  expect([await count('webhook_delivery'), await count('webhook_attempt')]).toEqual([2, 2])
  expect(await sweepOnce(deps())).toMatchObject({ prune: 0 })
  expect(await checkBooks(database.db)).toEqual([])
})

describe('a message', () => {
  test('that was not sent stays, however old, and so does what is not for the queue of jobs', async () => {
    const unsent = await endJobDaysAgo(400)
    await database.db
      .sql`update outbox set done_at = null, available_at = now() - interval '1 year'`
    await database.db.sql`
      insert into outbox (topic, dedupe_key, payload, done_at)
      values ('other', 'x', '{}', now() - interval '400 days')`
    expect(await pruneDispatches(database.db, WEEK)).toBe(0)
    await database.db
      .sql`update outbox set done_at = now() - interval '8 days' where topic <> 'other'`
    expect(await pruneDispatches(database.db, WEEK)).toBe(1)
    expect(await jobsOf('outbox')).not.toContain(unsent)
    expect(await count('outbox')).toBe(1)
  })
})

describe('an event', () => {
  test('that waits to be sent, or was sent again lately, stays with its whole log', async () => {
    const replayed = await endJobDaysAgo(31)
    const [entry] = await listDeliveries(database.db, { orgId: tenant.orgId, limit: 1 })
    const deliveryId = entry!.delivery.id
    const at = new Date()
    expect(
      await replayDelivery(database.db, { orgId: tenant.orgId, deliveryId, at }),
    ).toMatchObject({ ok: true })
    expect(await pruneWebhookLog(database.db, MONTH)).toBe(0)
    await deliverDue(deps(), createDeliverySlots())
    expect(await pruneWebhookLog(database.db, MONTH)).toBe(0)
    expect(await listDeliveries(database.db, { orgId: tenant.orgId, limit: 9 })).toMatchObject([
      { delivery: { state: 'delivered' }, attempts: [{ statusCode: 200 }] },
      { delivery: { state: 'delivered' }, attempts: [{ statusCode: 200 }] },
    ])
    await shiftBack(31, replayed)
    expect(await pruneWebhookLog(database.db, MONTH)).toBe(1)
    expect([await count('webhook_delivery'), await count('webhook_attempt')]).toEqual([0, 0])
  })

  test('is not removed under a replay that has begun', async () => {
    await endJobDaysAgo(31)
    await database.db.sql.begin(async (sql) => {
      await sql`select 1 from webhook_event for share`
      expect(await pruneWebhookLog(database.db, MONTH)).toBe(0)
    })
    expect(await pruneWebhookLog(database.db, MONTH)).toBe(1)
  })
})

test('a call removes no more than its bound, the oldest first; calls at once remove each row once', async () => {
  const days = [40, 39, 38, 37, 36, 35]
  const jobs: string[] = []
  for (const age of days) jobs.push(await endJobDaysAgo(age))
  expect(await pruneWebhookLog(database.db, { ...MONTH, limit: 2 })).toBe(2)
  expect(await pruneDispatches(database.db, { ...WEEK, limit: 2 })).toBe(2)
  const rest = jobs.slice(2).toSorted()
  expect(await jobsOf('webhook_event')).toEqual(rest)
  expect(await jobsOf('outbox')).toEqual(rest)
  const removed = await Promise.all(
    Array.from({ length: 4 }, () => pruneWebhookLog(database.db, MONTH)),
  )
  expect(removed.reduce((sum, one) => sum + one, 0)).toBe(4)
  expect(await count('webhook_delivery')).toBe(0)
})
