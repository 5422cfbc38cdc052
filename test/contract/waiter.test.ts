import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Db } from '../../db/client.ts'
import { requestCancel } from '../../db/job-claims.ts'
import { createId } from '../../db/ids.ts'
import { createJobWaiter } from '../../edge/waiter.ts'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { createBareTenant, reserve } from '../support/jobs.ts'
import type { BareTenant } from '../support/jobs.ts'

let database: TestDatabase
let tenant: BareTenant
beforeAll(async () => {
  database = await createTestDatabase()
  tenant = await createBareTenant(database.db)
})
afterAll(() => database.close())

async function startJob(): Promise<string> {
  const reserved = await reserve(database.db, tenant)
  if (!reserved.ok) throw new Error(reserved.reason)
  return reserved.jobId
}

function endJob(jobId: string) {
  return requestCancel(database.db, { orgId: tenant.orgId, jobId })
}

/** The same database, whose queries go through `watch` first. */
function watched(watch: () => void): Db {
  return new Proxy(database.db, {
    get(target, name, receiver) {
      if (name === 'orm' || name === 'sql') watch()
      return Reflect.get(target, name, receiver)
    },
  })
}

test('all callers of a process share one query', async () => {
  let polls = 0
  const waiter = createJobWaiter(watched(() => (polls += 1)))
  const jobs = await Promise.all(Array.from({ length: 20 }, startJob))
  const waits = [...jobs, ...jobs].map((jobId) => waiter.wait(jobId))
  await Promise.all(jobs.map(endJob))
  expect(await Promise.all(waits)).toEqual(waits.map(() => true))
  // Forty callers that polled by themselves would have asked forty times in the first round alone.
  expect(polls).toBeLessThan(40)
})

test('nobody is asked about when nobody waits', async () => {
  let polls = 0
  const waiter = createJobWaiter(watched(() => (polls += 1)))
  const jobId = await startJob()
  await endJob(jobId)
  expect(await waiter.wait(jobId)).toBe(true)
  const before = polls
  await new Promise((resolve) => setTimeout(resolve, 600))
  expect(polls).toBe(before)
})

test('time that is up ends the wait, and not the one of another caller', async () => {
  const jobId = await startJob()
  const hurried = createJobWaiter(database.db, () => {}, 50)
  const patient = createJobWaiter(database.db)
  const wait = patient.wait(jobId)
  expect(await hurried.wait(jobId)).toBe(false)
  await endJob(jobId)
  expect(await wait).toBe(true)
})

test('a caller that hangs up is let go, the others of the same job are not', async () => {
  const jobId = await startJob()
  const waiter = createJobWaiter(database.db)
  const caller = new AbortController()
  const gone = waiter.wait(jobId, caller.signal)
  const stays = waiter.wait(jobId)
  caller.abort()
  expect(await gone).toBe(false)
  await endJob(jobId)
  expect(await stays).toBe(true)
  expect(await waiter.wait(jobId, caller.signal)).toBe(false)
})

test('a stop ends every wait, also those that come later', async () => {
  const waiter = createJobWaiter(database.db)
  const wait = waiter.wait(createId('job'))
  waiter.stop()
  expect(await wait).toBe(false)
  expect(await waiter.wait(createId('job'))).toBe(false)
})

test('a database that fails for a moment does not end the wait', async () => {
  const failures: unknown[] = []
  let isDown = true
  const waiter = createJobWaiter(
    watched(() => {
      if (isDown) throw Object.assign(new Error('down'), { code: 'ECONNREFUSED' })
    }),
    (entry) => {
      failures.push(entry)
      isDown = false
    },
  )
  const jobId = await startJob()
  await endJob(jobId)
  expect(await waiter.wait(jobId)).toBe(true)
  expect(failures).toHaveLength(1)
})
