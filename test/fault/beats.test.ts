import { once } from 'node:events'
import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest'
import { closeDatabase, openDatabase } from '../../db/client.ts'
import type { Db } from '../../db/client.ts'
import { claimJob, requestCancel } from '../../db/job-claims.ts'
import { startBeats } from '../../gpu-worker/beats.ts'
import type { Beats } from '../../gpu-worker/beats.ts'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { createBareTenant, reserve } from '../support/jobs.ts'
import type { BareTenant } from '../support/jobs.ts'
import { startWire } from '../support/wire.ts'
import type { Wire } from '../support/wire.ts'

const BEAT = 'update job set lease_until'
const FAST = { leaseSeconds: 60, beatSeconds: 0.05, progressIntervalMs: 20 }

let database: TestDatabase
let wire: Wire
let wired: Db
let tenant: BareTenant
let beats: Beats | undefined
beforeAll(async () => {
  database = await createTestDatabase()
  wire = await startWire(database.url)
  // Its own deadline is no help here.
  wired = openDatabase(wire.url, { maxConnections: 2, statementTimeoutMs: 600_000 })
  tenant = await createBareTenant(database.db, { org: { maxInflight: 1000 } })
})
afterEach(() => {
  vi.useRealTimers()
  beats?.end()
})
afterAll(async () => {
  await wire.close()
  await closeDatabase(wired)
  await database.close()
})

/** Beats for a job that was just claimed. */
async function beatFor(times: Partial<typeof FAST> = {}): Promise<string> {
  const result = await reserve(database.db, tenant)
  if (!result.ok) throw new Error(result.reason)
  const { jobId } = result
  await claimJob(database.db, { jobId, workerId: 'w', leaseSeconds: 60, maxFailedAttempts: 3 })
  const never = new AbortController().signal
  const all = { ...FAST, ...times }
  beats = startBeats({ db: wired, jobId, attempt: 1, times: all, lease: never, stop: never })
  return jobId
}

/** Why the attempt has to end. */
async function reason(): Promise<unknown> {
  if (!beats) throw new Error('nothing beats')
  if (!beats.signal.aborted)
    await once(beats.signal, 'abort', { signal: AbortSignal.timeout(10_000) })
  return beats.signal.reason
}

test('a beat that is never answered loses the job when its lease is over', async () => {
  const trap = wire.trap({ when: 'before', sql: BEAT })
  await beatFor({ leaseSeconds: 1 })
  await trap.reached
  expect(await reason()).toBe('lost')
  trap.release()
})

test('beats that fail lose the job when its lease is over, and not before', async () => {
  const startedAt = performance.now()
  await wire.down()
  await beatFor({ leaseSeconds: 1 })
  expect(await reason()).toBe('lost')
  expect(performance.now() - startedAt).toBeGreaterThan(900)
  await wire.up()
})

test('the deadline is the database’s, whatever this machine’s clock says', async () => {
  vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + 86_400_000 })
  const trap = wire.trap({ when: 'after', sql: BEAT, nth: 3 })
  const jobId = await beatFor()
  await trap.reached
  expect(beats?.signal.aborted).toBe(false)
  await database.db.sql`update job set deadline_at = now() where id = ${jobId}`
  trap.release()
  expect(await reason()).toBe('expired')
})

test('a wish to cancel goes before a deadline that has passed', async () => {
  const jobId = await beatFor({ beatSeconds: 3_600 })
  await database.db.sql`update job set deadline_at = now() where id = ${jobId}`
  await requestCancel(database.db, { orgId: tenant.orgId, jobId })
  beats?.note({ step: 1 })
  expect(await reason()).toBe('canceled')
})
