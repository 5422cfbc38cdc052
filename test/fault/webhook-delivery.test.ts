import { Webhook } from 'standardwebhooks'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { settleJob } from '../../billing/settle.ts'
import { openDatabase } from '../../db/client.ts'
import { createId } from '../../db/ids.ts'
import { claimDueDeliveries, recordAttempt } from '../../db/webhook-attempts.ts'
import { listDeliveries, replayDelivery } from '../../db/webhook-log.ts'
import {
  MAX_ENDPOINTS,
  deleteEndpoint,
  findEndpoint,
  insertEndpoint,
  rotateEndpointSecret,
  updateEndpoint,
} from '../../db/webhooks.ts'
import { RETRY_DELAYS_SECONDS, deliver } from '../../edge/deliver.ts'
import { createNodeWebhookSender } from '../../edge/node/webhook-sender.ts'
import { createDeliverySlots, deliverDue, sweepOnce } from '../../edge/sweep.ts'
import type { SweepDeps } from '../../edge/sweep.ts'
import { webhookSecrets } from '../../edge/webhook-signature.ts'
import { NO_OBJECTS } from '../support/app.ts'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { createBareTenant, reserve } from '../support/jobs.ts'
import type { BareTenant } from '../support/jobs.ts'
import { TEST_PEPPER } from '../support/pepper.ts'
import { startReceiver } from '../support/receiver.ts'
import type { WebhookReceiver } from '../support/receiver.ts'
import { startWire } from '../support/wire.ts'

let database: TestDatabase
let tenant: BareTenant
let receiver: WebhookReceiver
let clockMs: number
const sender = createNodeWebhookSender({ allowLoopback: true })

beforeAll(async () => {
  database = await createTestDatabase({ maxConnections: 40 })
})
afterAll(async () => {
  await sender.close()
  await database.close()
})
beforeEach(async () => {
  receiver = await startReceiver()
  tenant = await createBareTenant(database.db)
  // Well ahead of the database's clock, so that rows it has dated are due, however slow the machine is.
  clockMs = Date.now() + 60_000
  await database.db.sql`update webhook_delivery set state = 'canceled' where state = 'pending'`
})
afterEach(() => receiver.close())

function deps(changes: Partial<SweepDeps> = {}): SweepDeps {
  return {
    db: database.db,
    pepper: TEST_PEPPER,
    sendWebhook: sender.send,
    allowLoopbackWebhooks: true,
    now: () => new Date(clockMs),
    random: () => 0,
    queue: { send: async () => {} },
    objects: NO_OBJECTS,
    ...changes,
  }
}

function attemptDue(changes: Partial<SweepDeps> = {}): Promise<number> {
  return deliverDue(deps(changes), createDeliverySlots())
}

/** A job that ended, with the event that its end staged. */
async function endJob(webhookUrl: string | null = null): Promise<string> {
  const reserved = await reserve(database.db, tenant, { webhookUrl })
  if (!reserved.ok) throw new Error(reserved.reason)
  await settleJob(database.db, { jobId: reserved.jobId, attempt: null, outcome: 'canceled' })
  return reserved.jobId
}

async function register(eventTypes: string[] = []) {
  const endpoint = await insertEndpoint(database.db, {
    orgId: tenant.orgId,
    url: receiver.url,
    description: null,
    eventTypes,
  })
  if (endpoint === null) throw new Error('not registered')
  return endpoint
}

async function log() {
  return listDeliveries(database.db, { orgId: tenant.orgId, limit: 50 })
}

/** In which all that a pause has held back comes due after it. */
const AFTER_PAUSE_MS = 30_000

const answerWith = (status: number) => {
  receiver.answer = (_request, response) => response.writeHead(status).end()
}

describe('delivery', () => {
  test('the end of a job reaches its own URL, signed with the secret of the org', async () => {
    const jobId = await endJob(receiver.url)
    expect(await attemptDue()).toBe(1)
    const [message] = receiver.received
    const { secret } = await webhookSecrets(TEST_PEPPER, { id: tenant.orgId, version: 1 })
    const event = new Webhook(secret).verify(message!.body, message!.headers)
    expect(event).toMatchObject({ type: 'job.canceled', data: { job_id: jobId, billed: false } })
    expect(message!.headers['webhook-signature']).toMatch(/^v1,\S+ v1a,\S+$/)
    const [entry] = await log()
    expect(entry).toMatchObject({
      delivery: { state: 'delivered', attempts: 1, endpointId: null },
      event: { type: 'job.canceled', subjectId: jobId },
      attempts: [{ statusCode: 200, error: null }],
    })
    expect(entry!.delivery.deliveredAt).not.toBeNull()
    expect(await attemptDue()).toBe(0)
  })

  test('an endpoint gets the events that it wants and no others', async () => {
    await register(['job.succeeded'])
    const wanting = await register(['job.canceled'])
    await endJob()
    expect(await attemptDue()).toBe(1)
    const { secret } = await webhookSecrets(TEST_PEPPER, { id: wanting.id, version: 1 })
    expect(
      new Webhook(secret).verify(receiver.received[0]!.body, receiver.received[0]!.headers),
    ).toBeTruthy()
  })

  test('for a day after a rotation both secrets verify, then the new one alone', async () => {
    const endpoint = await register()
    await rotateEndpointSecret(database.db, {
      orgId: tenant.orgId,
      endpointId: endpoint.id,
      previousSecretUntil: new Date(clockMs + 3_600_000),
    })
    await endJob()
    await attemptDue()
    const old = new Webhook(
      (await webhookSecrets(TEST_PEPPER, { id: endpoint.id, version: 1 })).secret,
    )
    const current = new Webhook(
      (await webhookSecrets(TEST_PEPPER, { id: endpoint.id, version: 2 })).secret,
    )
    const during = receiver.received[0]!
    expect(old.verify(during.body, during.headers)).toBeTruthy()
    expect(current.verify(during.body, during.headers)).toBeTruthy()
    await database.db.sql`
      update webhook_endpoint set previous_secret_until = now() - interval '1 second'
       where id = ${endpoint.id}`
    await endJob()
    await attemptDue()
    const after = receiver.received[1]!
    expect(() => old.verify(after.body, after.headers)).toThrow()
    expect(current.verify(after.body, after.headers)).toBeTruthy()
  })

  test('a receiver that fails is tried ten times on the schedule, with one event id, then given up', async () => {
    await register()
    answerWith(500)
    await endJob()
    for (const [index, seconds] of RETRY_DELAYS_SECONDS.entries()) {
      // Nothing goes out a moment early.
      if (index > 0) {
        clockMs += seconds * 1000 - 1
        expect(await attemptDue()).toBe(0)
        clockMs += 1
      }
      expect(await attemptDue()).toBe(1)
    }
    clockMs += 10 * 86_400_000
    expect(await attemptDue()).toBe(0)
    expect(receiver.received).toHaveLength(10)
    expect(new Set(receiver.received.map((one) => one.headers['webhook-id'])).size).toBe(1)
    const [entry] = await log()
    expect(entry).toMatchObject({ delivery: { state: 'failed', attempts: 10 } })
    expect(entry!.attempts.map((one) => one.error)).toEqual(Array(10).fill('http_error'))
  })

  test('a redirect is a failure and is not followed', async () => {
    await register()
    receiver.answer = (_request, response) =>
      response.writeHead(301, { location: `${receiver.url}2` }).end()
    await endJob()
    await attemptDue()
    expect(receiver.received).toHaveLength(1)
    expect((await log())[0]).toMatchObject({
      delivery: { state: 'pending' },
      attempts: [{ statusCode: 301, error: 'redirect_refused' }],
    })
  })

  test('an address that is not public is never connected to and the log says why', async () => {
    const strict = createNodeWebhookSender({
      allowLoopback: false,
      resolve: async () => [{ address: '127.0.0.1', family: 4 }],
    })
    await endJob(receiver.url)
    await endJob(`https://receiver.example:${receiver.port}/`)
    await attemptDue({ allowLoopbackWebhooks: false, sendWebhook: strict.send })
    await strict.close()
    expect(receiver.received).toHaveLength(0)
    expect((await log()).map((one) => [one.delivery.state, one.attempts[0]?.error])).toEqual([
      ['pending', 'address_not_public'],
      ['failed', 'url_refused'],
    ])
  })

  test('an overloaded receiver gets nothing until its pause is over, also no later events; others do', async () => {
    const slow = await register()
    await endJob()
    await endJob()
    receiver.answer = (_request, response) =>
      response.writeHead(429, { 'retry-after': '600' }).end()
    // One place: the second delivery is due, and is not attempted after the first answer.
    expect(await deliverDue(deps(), createDeliverySlots(1))).toBe(1)
    await endJob(receiver.url)
    answerWith(200)
    // The job's own URL is another destination; the endpoint's third event has come in the pause.
    expect(await attemptDue()).toBe(1)
    clockMs += 599_000
    expect(await attemptDue()).toBe(0)
    clockMs += 1_000 + AFTER_PAUSE_MS
    expect(await attemptDue()).toBe(3)
    expect((await log()).map((one) => one.delivery.state)).toEqual(Array(4).fill('delivered'))
    expect(
      (await findEndpoint(database.db, { orgId: tenant.orgId, endpointId: slow.id }))?.enabled,
    ).toBe(true)
  })

  test('an old delivery that meets an overloaded receiver keeps its own schedule and delays no event by it', async () => {
    await register()
    answerWith(500)
    await endJob()
    for (const seconds of RETRY_DELAYS_SECONDS.slice(0, 5)) {
      clockMs += seconds * 1000
      expect(await attemptDue()).toBe(1)
    }
    clockMs += RETRY_DELAYS_SECONDS[5]! * 1000
    answerWith(503)
    expect(await attemptDue()).toBe(1)
    answerWith(200)
    await endJob()
    expect(await attemptDue()).toBe(0)
    clockMs += 60_000 + AFTER_PAUSE_MS
    expect(await attemptDue()).toBe(1)
    const [young, old] = await log()
    expect(young!.delivery).toMatchObject({ state: 'delivered', attempts: 1 })
    expect(old!.delivery).toMatchObject({ state: 'pending', attempts: 6 })
    const waitMs = old!.delivery.nextAttemptAt.getTime() - clockMs
    expect(waitMs).toBeGreaterThan(RETRY_DELAYS_SECONDS[6]! * 1000 - 120_000)
  })

  test('what a pause has held back comes due bit by bit after it', async () => {
    await register()
    for (let count = 0; count < 40; count++) await endJob()
    answerWith(429)
    expect(await deliverDue(deps(), createDeliverySlots(1))).toBe(1)
    expect(await attemptDue()).toBe(0)
    const due = (await log()).map((one) => one.delivery.nextAttemptAt.getTime() - clockMs)
    for (const waitMs of due) {
      expect(waitMs).toBeGreaterThanOrEqual(60_000)
      expect(waitMs).toBeLessThanOrEqual(60_000 + AFTER_PAUSE_MS)
    }
    expect(Math.max(...due) - Math.min(...due)).toBeGreaterThan(AFTER_PAUSE_MS / 2)
  })

  test('a new address or being enabled again ends the pause of an endpoint', async () => {
    const endpoint = await register()
    for (const change of [{ url: `${receiver.url}2` }, { enabled: true }]) {
      await endJob()
      answerWith(429)
      expect(await attemptDue()).toBe(1)
      await updateEndpoint(database.db, {
        orgId: tenant.orgId,
        endpointId: endpoint.id,
        ...change,
      })
      await endJob()
      answerWith(200)
      expect(await attemptDue()).toBe(1)
    }
  })
})

describe('endpoints that are switched off', () => {
  test('410 disables at once: what waits is not sent, and the other endpoints are told', async () => {
    const gone = await register(['job.canceled'])
    const other = await startReceiver()
    await insertEndpoint(database.db, {
      orgId: tenant.orgId,
      url: other.url,
      description: null,
      eventTypes: ['webhook_endpoint.disabled'],
    })
    await endJob()
    await endJob()
    answerWith(410)
    await deliverDue(deps(), createDeliverySlots(1))
    await endJob()
    await attemptDue()
    expect(receiver.received).toHaveLength(1)
    const ofJobs = (await log()).filter((one) => one.event.type === 'job.canceled')
    expect(ofJobs.map((one) => one.delivery.state).toSorted()).toEqual(['canceled', 'failed'])
    const state = await findEndpoint(database.db, { orgId: tenant.orgId, endpointId: gone.id })
    expect(state).toMatchObject({ enabled: false, disabledReason: 'gone' })
    expect(other.received.map((one) => JSON.parse(one.body))).toMatchObject([
      { type: 'webhook_endpoint.disabled', data: { endpoint_id: gone.id, reason: 'gone' } },
    ])
    await other.close()
  })

  test('five days of failures disable; a success in between starts the count anew', async () => {
    const endpoint = await register()
    const health = () => findEndpoint(database.db, { orgId: tenant.orgId, endpointId: endpoint.id })
    const day = 86_400_000
    answerWith(500)
    await endJob()
    await attemptDue()
    clockMs += 4 * day
    answerWith(200)
    await attemptDue()
    expect(await health()).toMatchObject({ enabled: true, failingSince: null })
    answerWith(500)
    await endJob()
    await attemptDue()
    clockMs += 4.9 * day
    await attemptDue()
    expect(await health()).toMatchObject({ enabled: true })
    clockMs += day
    await attemptDue()
    expect(await health()).toMatchObject({ enabled: false, disabledReason: 'failing' })
    const sent = receiver.received.length
    clockMs += day
    await attemptDue()
    expect(receiver.received).toHaveLength(sent)
    expect((await log())[0]?.delivery.state).toBe('canceled')
    await updateEndpoint(database.db, {
      orgId: tenant.orgId,
      endpointId: endpoint.id,
      enabled: true,
    })
    expect(await health()).toMatchObject({
      enabled: true,
      disabledReason: null,
      failingSince: null,
    })
  })

  test('what was staged for an endpoint that is deleted meanwhile is not sent', async () => {
    const endpoint = await register()
    await endJob()
    await deleteEndpoint(database.db, {
      orgId: tenant.orgId,
      endpointId: endpoint.id,
      at: new Date(clockMs),
    })
    await attemptDue()
    expect(receiver.received).toHaveLength(0)
    expect((await log())[0]).toMatchObject({ delivery: { state: 'canceled' }, attempts: [] })
  })
})

test('endpoints made at the same time do not pass the most that an org may have', async () => {
  // The first round opens the connections; the others meet on them.
  for (let round = 0; round < 4; round++) {
    const { orgId } = await createBareTenant(database.db)
    const made = await Promise.all(
      Array.from({ length: 40 }, () =>
        insertEndpoint(database.db, {
          orgId,
          url: receiver.url,
          description: null,
          eventTypes: [],
        }),
      ),
    )
    expect(made.filter((one) => one !== null)).toHaveLength(MAX_ENDPOINTS)
  }
})

describe('replay', () => {
  test('sends the same event again under its id and keeps the old log', async () => {
    await register()
    await endJob()
    await attemptDue()
    const [before] = await log()
    const replayed = await replayDelivery(database.db, {
      orgId: tenant.orgId,
      deliveryId: before!.delivery.id,
      at: new Date(clockMs),
    })
    expect(replayed.ok).toBe(true)
    await attemptDue()
    const ids = receiver.received.map((one) => one.headers['webhook-id'])
    expect(ids).toEqual([ids[0], ids[0]])
    expect((await log()).map((one) => one.delivery.state)).toEqual(['delivered', 'delivered'])
  })

  test('another org cannot, and a disabled endpoint is not replayed to', async () => {
    const endpoint = await register()
    await endJob()
    const [entry] = await log()
    const deliveryId = entry!.delivery.id
    const at = new Date(clockMs)
    expect(await replayDelivery(database.db, { orgId: createId('org'), deliveryId, at })).toEqual({
      ok: false,
      reason: 'not_found',
    })
    await updateEndpoint(database.db, {
      orgId: tenant.orgId,
      endpointId: endpoint.id,
      enabled: false,
    })
    expect(await replayDelivery(database.db, { orgId: tenant.orgId, deliveryId, at })).toEqual({
      ok: false,
      reason: 'endpoint_disabled',
    })
  })
})

describe('crashes and concurrency', () => {
  test('a taker that dies after the claim delays the delivery by its lease and loses nothing', async () => {
    await register()
    await endJob()
    const claimed = await claimDueDeliveries(database.db, {
      now: new Date(clockMs),
      limit: 10,
      leaseSeconds: 60,
    })
    expect(claimed).toHaveLength(1)
    expect(await attemptDue()).toBe(0)
    clockMs += 60_000
    expect(await attemptDue()).toBe(1)
    expect(receiver.received).toHaveLength(1)
    expect((await log())[0]?.delivery).toMatchObject({ state: 'delivered', attempts: 2 })
  })

  test('a taker that dies after sending repeats the message under the same id', async () => {
    await register()
    await endJob()
    const dying = deps({
      sendWebhook: async (request) => {
        await sender.send(request)
        throw new Error('the process dies here')
      },
    })
    await expect(deliverDue(dying, createDeliverySlots())).rejects.toThrow('dies here')
    clockMs += 60_000
    await attemptDue()
    const ids = receiver.received.map((one) => one.headers['webhook-id'])
    expect(ids).toHaveLength(2)
    expect(new Set(ids).size).toBe(1)
  })

  test('a late result of an attempt whose lease ran out changes nothing', async () => {
    await register()
    await endJob()
    let release = () => {}
    const held = new Promise<void>((resolve) => (release = resolve))
    let started = () => {}
    const hasStarted = new Promise<void>((resolve) => (started = resolve))
    const late = attemptDue({
      sendWebhook: async () => {
        started()
        await held
        return { ok: true, statusCode: 410, retryAfterSeconds: null }
      },
    })
    await hasStarted
    clockMs += 60_000
    answerWith(500)
    expect(await attemptDue()).toBe(1)
    release()
    await late
    expect((await log())[0]).toMatchObject({
      delivery: { state: 'pending', attempts: 2 },
      attempts: { length: 2 },
    })
  })

  test('any number of attempts to one overloaded endpoint are recorded at once, none fails', async () => {
    await register()
    await Promise.all(Array.from({ length: 24 }, () => endJob()))
    const now = new Date(clockMs)
    const claimed = await claimDueDeliveries(database.db, { now, limit: 24, leaseSeconds: 60 })
    expect(claimed).toHaveLength(24)
    const deferUntil = new Date(clockMs + 600_000)
    const recorded = await Promise.all(
      claimed.map((delivery, index) =>
        recordAttempt(database.db, {
          delivery,
          result: { startedAt: now, durationMs: 5, statusCode: 429, error: 'http_error' },
          verdict: {
            state: 'pending',
            nextAttemptAt: new Date(deferUntil.getTime() + index),
            deferUntil,
          },
          // The last ones find the endpoint failing for long enough, so disabling takes part.
          disableAfterSeconds: index < 12 ? 432_000 : 0,
        }),
      ),
    )
    expect(recorded.every((one) => one.isRecorded)).toBe(true)
    expect(recorded.filter((one) => one.isEndpointDisabled)).toHaveLength(1)
    expect((await log()).map((one) => one.attempts.length)).toEqual(Array(24).fill(1))
  })

  test('sweeps in several processes at once send every event once', async () => {
    await register()
    const jobs = await Promise.all(Array.from({ length: 30 }, () => endJob()))
    const counts = await Promise.all(Array.from({ length: 4 }, () => attemptDue()))
    expect(counts.reduce((sum, count) => sum + count, 0)).toBe(30)
    const bodies = receiver.received.map(
      (one) => (JSON.parse(one.body) as { data: { job_id: string } }).data.job_id,
    )
    expect(bodies.toSorted()).toEqual(jobs.toSorted())
  })

  test('places of overlapping sweeps are shared and come back, also after a failure', async () => {
    await register()
    await Promise.all(Array.from({ length: 20 }, () => endJob()))
    const slots = createDeliverySlots(3)
    let underWay = 0
    let most = 0
    const counting = deps({
      sendWebhook: async (request) => {
        underWay += 1
        most = Math.max(most, underWay)
        const result = await sender.send(request)
        underWay -= 1
        return result
      },
    })
    await Promise.all([deliverDue(counting, slots), deliverDue(counting, slots)])
    expect(most).toBeLessThanOrEqual(3)
    expect(receiver.received).toHaveLength(20)
    await endJob()
    const broken = deps({ sendWebhook: () => Promise.reject(new Error('bug')) })
    await expect(deliverDue(broken, slots)).rejects.toThrow('bug')
    expect(slots).toEqual(createDeliverySlots(3))
  })
})

test('a database error at one place is the error of that sweep; the other places go on and the process lives', async () => {
  await endJob(receiver.url)
  await endJob(receiver.url)
  const lost: unknown[] = []
  const onLost = (reason: unknown) => lost.push(reason)
  process.on('unhandledRejection', onLost)
  const wire = await startWire(database.url)
  const db = openDatabase(wire.url)
  const secondClaim = wire.trap({ when: 'before', sql: 'taken as', nth: 2 })
  let answer = () => {}
  const answered = new Promise<void>((resolve) => (answer = resolve))
  const slots = createDeliverySlots(2)
  const sweep = deliverDue(
    deps({
      db,
      sendWebhook: async (request) => {
        await answered
        return sender.send(request)
      },
    }),
    slots,
  )
  await secondClaim.reached
  wire.cut()
  await expect.poll(() => slots.free).toBe(1)
  answer()
  await expect(sweep).rejects.toThrow('CONNECTION_CLOSED')
  process.off('unhandledRejection', onLost)
  expect(lost).toEqual([])
  expect(slots).toEqual(createDeliverySlots(2))
  expect((await log()).map((one) => one.delivery.state)).toEqual(['delivered', 'delivered'])
  await db.sql.end({ timeout: 0 })
  await wire.close()
})

test('a process that stops takes no further delivery', async () => {
  await endJob(receiver.url)
  await endJob(receiver.url)
  const stop = { isStopping: false, isCut: false }
  const stopping = deps({
    sendWebhook: (request) => {
      stop.isStopping = true
      return sender.send(request)
    },
  })
  expect(await deliverDue(stopping, createDeliverySlots(1), stop)).toBe(1)
  expect(receiver.received).toHaveLength(1)
  expect(await attemptDue()).toBe(1)
})

test('an attempt that is cut is not held against its receiver; an answer that came in time is', async () => {
  const stop = { isStopping: true, isCut: true }
  await endJob(receiver.url)
  const cut = deps({ sendWebhook: async () => ({ ok: false, error: 'connection_failed' }) })
  const claim = async () => {
    const now = new Date(clockMs)
    const [taken] = await claimDueDeliveries(database.db, { now, limit: 1, leaseSeconds: 60 })
    return taken!
  }
  expect(await deliver(cut, await claim(), stop)).toBe('abandoned')
  expect((await log())[0]).toMatchObject({ delivery: { state: 'pending' }, attempts: [] })
  clockMs += 60_000
  expect(await deliver(deps(), await claim(), stop)).toBe('delivered')
})

test('an org whose receivers hang holds a few places and delays nobody else', async () => {
  const hanging = await startReceiver()
  let release = () => {}
  const held = new Promise<void>((resolve) => (release = resolve))
  let hung = 0
  const slots = createDeliverySlots()
  for (let count = 0; count < 20; count++) await endJob(hanging.url)
  tenant = await createBareTenant(database.db)
  const jobId = await endJob(receiver.url)
  const sweep = deps({
    sendWebhook: async (request) => {
      if (request.url.port === String(hanging.port)) {
        hung += 1
        await held
      }
      return sender.send(request)
    },
  })
  const first = deliverDue(sweep, slots)
  await receiver.waitFor(1)
  expect(JSON.parse(receiver.received[0]!.body)).toMatchObject({ data: { job_id: jobId } })
  // The next beats leave the full org alone as well.
  expect(await deliverDue(sweep, slots)).toBe(0)
  expect(hung).toBeLessThanOrEqual(5)
  release()
  await first
  await deliverDue(sweep, slots)
  expect(hanging.received).toHaveLength(20)
  await hanging.close()
})

describe('sweepOnce', () => {
  test('a part that fails stops no other', async () => {
    await register()
    await endJob()
    await reserve(database.db, tenant)
    await database.db.sql`update outbox set available_at = now() - interval '1 minute'`
    const report = await sweepOnce(
      deps({ queue: { send: () => Promise.reject(new Error('queue is down')) } }),
    )
    expect(report.dispatch).toEqual(new Error('queue is down'))
    expect(report).toMatchObject({ deliver: 1, expire: 0, redispatch: 0 })
  })

  test('a message that its writer did not send goes out, once among several sweeps', async () => {
    await database.db.sql`update outbox set done_at = now() where done_at is null`
    const reserved = await reserve(database.db, tenant)
    if (!reserved.ok) throw new Error(reserved.reason)
    const sent: string[] = []
    const queue = {
      send: async (message: { jobId: string }) => {
        sent.push(message.jobId)
      },
    }
    await sweepOnce(deps({ queue }))
    expect(sent).toEqual([])
    await database.db.sql`
      update outbox set available_at = now() - interval '3 seconds' where done_at is null`
    await Promise.all(Array.from({ length: 4 }, () => sweepOnce(deps({ queue }))))
    expect(sent).toEqual([reserved.jobId])
  })

  test('an overdue job ends, its hold is released and its URL is told', async () => {
    const reserved = await reserve(database.db, tenant, { webhookUrl: receiver.url })
    if (!reserved.ok) throw new Error(reserved.reason)
    await database.db.sql`
      update job set deadline_at = now() - interval '1 second' where id = ${reserved.jobId}`
    expect(await sweepOnce(deps())).toMatchObject({ expire: 1 })
    await sweepOnce(deps())
    expect(receiver.received.map((one) => JSON.parse(one.body))).toMatchObject([
      { type: 'job.expired', data: { job_id: reserved.jobId, billed: false } },
    ])
  })
})
