import { afterAll, beforeAll, expect, test } from 'vitest'
import { settleJob } from '../../billing/settle.ts'
import { beatJob, claimJob } from '../../db/job-claims.ts'
import { createDeliverySlots, sweepOnce } from '../../edge/sweep.ts'
import { NO_OBJECTS, createTestApp, createTestDeps } from '../support/app.ts'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { deliver } from '../support/jobs.ts'
import { createTenant } from '../support/tenant.ts'

let database: TestDatabase
beforeAll(async () => {
  // One connection, so that all that is kept for it on the server can be seen from it.
  database = await createTestDatabase({ maxConnections: 1 })
})
afterAll(() => database.close())

/** Everything that is usual, with so many jobs at once and so many pictures in each. */
async function workALot(size: number): Promise<void> {
  const { db } = database
  const { apiKey } = await createTenant(db)
  const deps = createTestDeps(db, { objects: NO_OBJECTS })
  const app = createTestApp(db, deps)
  const order = { model: 'glm-image', prompt: 'A sign', n: Math.min(size, 2) }
  const jobs: { id: string }[] = []
  // One after the other: an org may send pictures in few calls at once.
  for (let made = 0; made < size; made++) {
    const answer = await app.call('POST', '/v1/jobs', { apiKey, body: order })
    expect(answer.status).toBe(201)
    jobs.push((await answer.json()) as { id: string })
  }
  const waits = jobs.map(({ id }) => deps.waiter.wait(id))
  for (const { id: jobId } of jobs) {
    await claimJob(db, { jobId, workerId: 'w', leaseSeconds: 60, maxFailedAttempts: 3 })
    for (let idx = 0; idx < order.n; idx++) await deliver(db, jobId, 1, idx)
    await beatJob(db, { jobId, attempt: 1, leaseSeconds: 60, progress: { drawn: 1 } })
    await settleJob(db, { jobId, attempt: 1, outcome: 'succeeded' })
    expect((await app.call('GET', `/v1/jobs/${jobId}`, { apiKey })).status).toBe(200)
  }
  expect(await Promise.all(waits)).toEqual(waits.map(() => true))
  for (const path of [`/v1/jobs?limit=${size}`, '/v1/balance', '/v1/statements', '/v1/models'])
    expect((await app.call('GET', path, { apiKey })).status).toBe(200)
  await sweepOnce(deps, createDeliverySlots())
}

test('what a connection keeps prepared on the server does not grow with work, nor with how much of it there is at once', async () => {
  const { db } = database
  const count = async () => {
    const [row] = await db.sql<{ count: number }[]>`
      select count(*)::int as count from pg_prepared_statements`
    return row?.count ?? 0
  }
  await count()
  await workALot(1)
  await workALot(2)
  const before = await count()
  expect(before).toBeGreaterThan(10)
  for (const size of [3, 4, 5, 6]) await workALot(size)
  expect(await count()).toBe(before)
})
