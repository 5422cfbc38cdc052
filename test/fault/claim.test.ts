import { eq } from 'drizzle-orm'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { closeDatabase, openDatabase, withTransaction } from '../../db/client.ts'
import type { Db } from '../../db/client.ts'
import { beatJob, claimJob, giveBackJob, recordOutput } from '../../db/job-claims.ts'
import { job } from '../../db/schema/job.ts'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { CLAIM, RECORD } from '../support/floor.ts'
import { createBareTenant, reserve } from '../support/jobs.ts'
import type { BareTenant } from '../support/jobs.ts'
import { startWire } from '../support/wire.ts'
import type { Wire } from '../support/wire.ts'

let database: TestDatabase
let wire: Wire
/** The same database through the wire: the worker that is stopped between its statements. */
let wired: Db
let tenant: BareTenant
beforeAll(async () => {
  database = await createTestDatabase()
  wire = await startWire(database.url)
  wired = openDatabase(wire.url, { maxConnections: 2, statementTimeoutMs: 30_000 })
  tenant = await createBareTenant(database.db, { org: { maxInflight: 1000 } })
})
afterEach(() => void vi.useRealTimers())
afterAll(async () => {
  await closeDatabase(wired)
  await wire.close()
  await database.close()
})

async function newJob(): Promise<string> {
  const result = await reserve(database.db, tenant, { n: 2 })
  if (!result.ok) throw new Error(result.reason)
  return result.jobId
}

function claim(db: Db, jobId: string, leaseSeconds = 60) {
  return claimJob(db, { jobId, workerId: 'w', leaseSeconds, maxFailedAttempts: 3 })
}

function image(jobId: string, attempt: number, objectKey: string) {
  const about = { sha256: 'a'.repeat(64), sizeBytes: 1, contentType: 'image/png' }
  return { jobId, attempt, output: { idx: 0, objectKey, ...about, width: 64, height: 64, seed: 1 } }
}

describe('a claim that meets another', () => {
  test.each([
    ['hands the job back', (jobId: string) => giveBack(jobId)],
    ['stops beating', (jobId: string) => lapse(jobId)],
  ])(
    'is told busy, and never that the job has failed too often, when the other %s meanwhile',
    async (_name, happen) => {
      const jobId = await newJob()
      await claim(database.db, jobId)
      const trap = wire.trap({ when: 'after', sql: CLAIM })
      const late = claim(wired, jobId)
      await trap.reached
      await happen(jobId)
      trap.release()
      expect((await late).outcome).toBe('busy')
      expect(await claim(database.db, jobId)).toMatchObject({ job: { attempt: 2 } })
    },
  )

  test('waits for a hand-back that is under way and takes the job', async () => {
    const jobId = await newJob()
    await claim(database.db, jobId)
    const trap = wire.trap({ when: 'before', sql: CLAIM })
    const late = claim(wired, jobId)
    await trap.reached
    await withTransaction(database.db, async (tx) => {
      await giveBackJob(tx, { jobId, attempt: 1, countFailure: true })
      trap.release()
      await expect.poll(waitingStatements).toBeGreaterThan(0)
    })
    expect(await late).toMatchObject({ outcome: 'claimed', job: { attempt: 2, failedAttempts: 1 } })
  })

  test('is one of many: one at a time has the job, and no failure is counted', async () => {
    const jobId = await newJob()
    for (let round = 1; round <= 5; round++) {
      const claims = await Promise.all(Array.from({ length: 10 }, () => claim(database.db, jobId)))
      const outcomes = claims.map(({ outcome }) => outcome).toSorted()
      expect(outcomes).toEqual([...Array.from({ length: 9 }, () => 'busy'), 'claimed'])
      await giveBackJob(database.db, { jobId, attempt: round, countFailure: false })
    }
    expect(await claim(database.db, jobId)).toMatchObject({
      job: { attempt: 6, failedAttempts: 0 },
    })
  })

  test('hears how long the lease lasts from the database, whatever its own clock says', async () => {
    const jobId = await newJob()
    await claim(database.db, jobId)
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + 86_400_000 })
    const late = await claim(database.db, jobId)
    if (late.outcome !== 'busy') throw new Error(`the claim was ${late.outcome}`)
    expect(late.leftSeconds).toBeGreaterThan(30)
    expect(late.leftSeconds).toBeLessThanOrEqual(60)
  })

  test('whose answer stood still for a whole lease, so that another has the job, may write nothing', async () => {
    const jobId = await newJob()
    const trap = wire.trap({ when: 'after', sql: CLAIM })
    const late = claim(wired, jobId)
    await trap.reached
    await lapse(jobId)
    expect(await claim(database.db, jobId)).toMatchObject({ job: { attempt: 2 } })
    trap.release()
    expect(await late).toMatchObject({ outcome: 'claimed', job: { attempt: 1 } })
    const beat = await beatJob(database.db, { jobId, attempt: 1, leaseSeconds: 60 })
    expect(beat.owned).toBe(false)
    const stored = await recordOutput(database.db, image(jobId, 1, 'images/late'))
    expect(stored).toEqual({ owned: false, kept: false })
  })

  test('returns the row as the query builder reads it, and what an earlier attempt has stored', async () => {
    const { db } = database
    const jobId = await newJob()
    await claim(db, jobId)
    await recordOutput(db, image(jobId, 1, 'images/kept'))
    await giveBack(jobId)
    const claimed = await claim(db, jobId)
    if (claimed.outcome !== 'claimed') throw new Error(claimed.outcome)
    const [row] = await db.orm.select().from(job).where(eq(job.id, jobId))
    expect(claimed.job).toEqual(row)
    expect(claimed.outputs.map(({ objectKey }) => objectKey)).toEqual(['images/kept'])
  })

  async function giveBack(jobId: string): Promise<void> {
    await giveBackJob(database.db, { jobId, attempt: 1, countFailure: false })
  }

  async function lapse(jobId: string): Promise<void> {
    await database.db.sql`update job set lease_until = now() where id = ${jobId}`
  }

  /** Statements that wait for a row of somebody else. */
  async function waitingStatements(): Promise<number> {
    const rows = await database.db.sql`
      select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`
    return rows.length
  }
})

describe('an image that is noted', () => {
  test('twice, because the first answer was lost, is kept', async () => {
    const jobId = await newJob()
    await claim(database.db, jobId)
    const mine = image(jobId, 1, 'images/a')
    const trap = wire.trap({ when: 'after', sql: RECORD })
    const first = recordOutput(wired, mine)
    await trap.reached
    expect(await recordOutput(database.db, mine)).toEqual({ owned: true, kept: true })
    await giveBackJob(database.db, { jobId, attempt: 1, countFailure: false })
    // The job is another's by now, and still has this object.
    expect(await recordOutput(database.db, mine)).toEqual({ owned: false, kept: true })
    trap.release()
    expect(await first).toEqual({ owned: true, kept: true })
  })

  test('by an attempt that is over is refused, and its object is nobody’s', async () => {
    const jobId = await newJob()
    await claim(database.db, jobId, 0)
    await claim(database.db, jobId)
    await recordOutput(database.db, image(jobId, 2, 'images/b'))
    const late = await recordOutput(database.db, image(jobId, 1, 'images/a'))
    expect(late).toEqual({ owned: false, kept: false })
  })

  test('beside another of the same index leaves that one, and says so', async () => {
    const jobId = await newJob()
    await claim(database.db, jobId)
    await recordOutput(database.db, image(jobId, 1, 'images/a'))
    const second = await recordOutput(database.db, image(jobId, 1, 'images/b'))
    expect(second).toEqual({ owned: true, kept: false })
    const keys = await database.db.sql`select object_key from job_output where job_id = ${jobId}`
    expect(keys.map((row) => row['object_key'])).toEqual(['images/a'])
  })
})
