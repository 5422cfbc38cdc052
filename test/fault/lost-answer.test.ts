import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { reserveJob } from '../../billing/reserve.ts'
import type { ReserveInput } from '../../billing/reserve.ts'
import { settleJob } from '../../billing/settle.ts'
import { openDatabase } from '../../db/client.ts'
import type { Db } from '../../db/client.ts'
import { claimJob } from '../../db/job-claims.ts'
import { createFileObjects } from '../../edge/node/file-objects.ts'
import { NO_OBJECTS, createTestApp } from '../support/app.ts'
import type { TestApp } from '../support/app.ts'
import { checkBooks } from '../support/books.ts'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { IMAGE_MICROS, LIST_PRICE, createBareTenant, deliver, newJob } from '../support/jobs.ts'
import type { BareTenant } from '../support/jobs.ts'
import { drawPicture } from '../support/pictures.ts'
import { createTenant } from '../support/tenant.ts'
import { startWire } from '../support/wire.ts'
import type { Wire } from '../support/wire.ts'

/** Answers of `reserve_jobs` that are lost between database and gateway. */
let database: TestDatabase
let wire: Wire
let far: Db
let tenant: BareTenant

beforeAll(async () => {
  database = await createTestDatabase()
})
afterAll(async () => {
  expect(await checkBooks(database.db)).toEqual([])
  await database.close()
})
beforeEach(async () => {
  wire = await startWire(database.url)
  far = openDatabase(wire.url, { maxConnections: 2 })
  tenant = await createBareTenant(database.db, { org: { creditMicros: IMAGE_MICROS } })
})
afterEach(async () => {
  // Its connections were cut; there is nothing to wait for.
  await far.sql.end({ timeout: 0 })
  await wire.close()
})

function order(changes: Parameters<typeof newJob>[1] = {}): ReserveInput {
  const job = newJob(tenant, changes)
  return { job, price: LIST_PRICE }
}

/** Cuts the line when the answer of the nth reservation is on its way. */
function cutAfter(nth: number): Promise<void> {
  const trap = wire.trap({ when: 'after', sql: 'reserve_jobs', nth })
  return trap.reached.then(() => {
    wire.cut()
    trap.release()
  })
}

async function jobsOf(orgId: string): Promise<string[]> {
  const rows = await database.db.sql<{ id: string }[]>`select id from job where org_id = ${orgId}`
  return rows.map(({ id }) => id)
}

test('a reservation whose answer is lost after the commit is answered as if it were not, and held once', async () => {
  const input = order()
  const cut = cutAfter(1)
  const result = await reserveJob(far, input)
  await cut
  const [message] = await database.db.sql<{ id: bigint }[]>`
    select id from outbox where payload->>'job_id' = ${input.job.id}`
  expect(result).toEqual({
    ok: true,
    jobId: input.job.id,
    replayed: false,
    state: 'accepted',
    outboxId: message?.id,
    places: null,
  })
  expect(await jobsOf(tenant.orgId)).toEqual([input.job.id])
})

test('the same under an idempotency key: the caller hears of the first job as of a new one', async () => {
  const input = order({ idempotencyKey: 'order-1' })
  const cut = cutAfter(1)
  expect(await reserveJob(far, input)).toMatchObject({ jobId: input.job.id, replayed: false })
  await cut
  expect(await reserveJob(far, order({ idempotencyKey: 'order-1' }))).toMatchObject({
    jobId: input.job.id,
    replayed: true,
  })
})

test('when the second answer is lost too the call fails, and one more under the same id finds the job', async () => {
  const input = order()
  const cuts = [cutAfter(1), cutAfter(2)]
  await expect(reserveJob(far, input)).rejects.toThrow()
  await Promise.all(cuts)
  expect(await jobsOf(tenant.orgId)).toEqual([input.job.id])
  // There is no credit left for a second one, and none is needed.
  expect(await reserveJob(far, input)).toMatchObject({ jobId: input.job.id, replayed: false })
  expect(await jobsOf(tenant.orgId)).toEqual([input.job.id])
})

test('a repeat that comes while the first call still works in the database waits for it', async () => {
  const input = order()
  let cut = () => {}
  const blocked = new Promise<void>((resolve) => (cut = resolve))
  const blocker = database.db.sql.begin(async (sql) => {
    await sql`select 1 from budget where scope = 'org' and scope_id = ${tenant.orgId} for update`
    await blocked
  })
  const waiters = async () => {
    const [row] = await database.db.sql<{ count: number }[]>`
      select count(*)::int from pg_stat_activity
       where datname = current_database() and wait_event_type = 'Lock' and query like '%reserve_jobs%'`
    return row?.count
  }
  const result = reserveJob(far, input)
  await expect.poll(waiters).toBe(1)
  wire.cut()
  await expect.poll(waiters).toBe(2)
  cut()
  await blocker
  expect(await result).toMatchObject({ ok: true, jobId: input.job.id, replayed: false })
  expect(await jobsOf(tenant.orgId)).toEqual([input.job.id])
})

test('a job id opens nothing: under another key or for another request there is no such job', async () => {
  const { db } = database
  const first = order()
  await reserveJob(db, first)
  const changed = { ...first, job: { ...first.job, requestHash: 'another' } }
  expect(await reserveJob(db, changed)).toEqual({
    ok: false,
    reason: 'idempotency_mismatch',
    jobId: first.job.id,
  })
  const stranger = await createBareTenant(db)
  const stolen = { ...first, job: { ...first.job, ...stranger } }
  await expect(reserveJob(db, stolen)).rejects.toThrow('is taken')
  expect(await jobsOf(stranger.orgId)).toEqual([])
})

describe('the gateway', () => {
  const ORDER = { prompt: 'A sign' }
  let app: TestApp
  let apiKey: string

  beforeEach(async () => {
    const owner = await createTenant(database.db, { org: { creditMicros: IMAGE_MICROS } })
    tenant = owner
    apiKey = owner.apiKey
    app = createTestApp(far, { objects: NO_OBJECTS })
    // So that the line is cut for the reservation and for nothing before it.
    await app.call('GET', '/v1/models', { apiKey })
  })

  const order = async (path = '/v1/jobs') => {
    const response = await app.call('POST', path, { apiKey, body: ORDER })
    return { status: response.status, body: (await response.json()) as { id?: string } }
  }

  test('answers an order as usual when the first answer of the database is lost', async () => {
    const cut = cutAfter(1)
    const { status, body } = await order()
    await cut
    expect([status, await jobsOf(tenant.orgId)]).toEqual([201, [body.id]])
  })

  test('takes up the job that it could not tell of when the client calls again after its 503', async () => {
    const cuts = [cutAfter(1), cutAfter(2)]
    expect((await order()).status).toBe(503)
    await Promise.all(cuts)
    const again = await order()
    expect([again.status, await jobsOf(tenant.orgId)]).toEqual([200, [again.body.id]])
  })

  test('takes it up even where the database had not begun with it', async () => {
    const traps = [1, 2].map(() => wire.trap({ when: 'before', sql: 'reserve_jobs' }))
    const refused = order()
    for (const trap of traps) {
      await trap.reached
      wire.cut()
    }
    expect((await refused).status).toBe(503)
    const again = await order()
    expect([again.status, await jobsOf(tenant.orgId)]).toEqual([201, [again.body.id]])
  })

  test('takes up the job that was made when the line was cut before it could be read', async () => {
    const trap = wire.trap({ when: 'before', sql: 'inner join "reservation"' })
    const refused = order()
    await trap.reached
    wire.cut()
    expect((await refused).status).toBe(503)
    const again = await order()
    expect([again.status, await jobsOf(tenant.orgId)]).toEqual([200, [again.body.id]])
  })

  test('does the same for a call that waits for its pictures', async () => {
    const trap = wire.trap({ when: 'before', sql: 'inner join "reservation"' })
    const refused = order('/v1/images/generations')
    await trap.reached
    wire.cut()
    expect((await refused).status).toBe(503)
    const [jobId = ''] = await jobsOf(tenant.orgId)
    await endJob(jobId)
    const again = await order('/v1/images/generations')
    expect([again.body.id, await jobsOf(tenant.orgId)]).toEqual([jobId, [jobId]])
  })
})

describe('the gateway with pictures to work from', () => {
  let folder: string
  let apiKey: string
  let app: TestApp
  let picture: Uint8Array

  beforeEach(async () => {
    const owner = await createTenant(database.db, { org: { creditMicros: IMAGE_MICROS } })
    tenant = owner
    apiKey = owner.apiKey
    folder = await mkdtemp(join(tmpdir(), 'glyphpress-inputs-'))
    app = createTestApp(far, { objects: createFileObjects(folder) })
    picture = await drawPicture(1, { width: 64, height: 64 })
    await app.call('GET', '/v1/models', { apiKey })
  })
  afterEach(() => rm(folder, { recursive: true }))

  const order = async () => {
    const images = [{ data: Buffer.from(picture).toString('base64') }]
    const response = await app.call('POST', '/v1/jobs', { apiKey, body: { prompt: 'x', images } })
    return { status: response.status, body: (await response.json()) as { id: string } }
  }

  test('takes up the job that it could not tell of, though its hold took the last money, and keeps its pictures alone', async () => {
    const cuts = [cutAfter(1), cutAfter(2)]
    expect((await order()).status).toBe(503)
    await Promise.all(cuts)
    const again = await order()
    expect([again.status, await jobsOf(tenant.orgId)]).toEqual([200, [again.body.id]])
    expect(await readdir(join(folder, 'inputs'))).toEqual([again.body.id])
  })

  test('repeats one that was not made under its id, where its pictures are', async () => {
    const traps = [1, 2].map(() => wire.trap({ when: 'before', sql: 'reserve_job' }))
    const refused = order()
    for (const trap of traps) {
      await trap.reached
      wire.cut()
    }
    expect((await refused).status).toBe(503)
    const [lost] = await readdir(join(folder, 'inputs'))
    const again = await order()
    expect([again.status, again.body.id]).toEqual([201, lost])
    expect(await readdir(join(folder, 'inputs'))).toEqual([lost])
    expect(await readdir(join(folder, 'inputs', again.body.id))).toHaveLength(1)
  })
})

async function endJob(jobId: string): Promise<void> {
  const { db } = database
  await claimJob(db, { jobId, workerId: 'w', leaseSeconds: 60, maxFailedAttempts: 3 })
  await deliver(db, jobId, 1)
  await settleJob(db, { jobId, attempt: 1, outcome: 'succeeded' })
}
