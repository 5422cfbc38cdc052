import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { readBacklog } from '../../db/backlog.ts'
import type { Db } from '../../db/client.ts'
import { claimJob } from '../../db/job-claims.ts'
import { CLASS_BOUNDS } from '../../db/size-classes.ts'
import { workOf } from '../../infra/fleet/work.ts'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { createBareTenant, deliver, reserve } from '../support/jobs.ts'
import type { BareTenant } from '../support/jobs.ts'

let database: TestDatabase
let tenant: BareTenant
beforeAll(async () => {
  database = await createTestDatabase()
  tenant = await createBareTenant(database.db, { org: { maxInflight: 1000 } })
})
afterAll(() => database.close())

async function accepted(changes: Parameters<typeof reserve>[2] = {}): Promise<string> {
  const result = await reserve(database.db, tenant, changes)
  if (!result.ok) throw new Error(result.reason)
  return result.jobId
}

const read = (limit = 100) => readBacklog(database.db, { classBounds: CLASS_BOUNDS, limit })
const ageBy = (jobId: string, seconds: number) =>
  database.db.sql`
    update job set created_at = now() - make_interval(secs => ${seconds}) where id = ${jobId}`

describe('backlog', () => {
  test('counts what is still to be made by who has it and how big it is', async () => {
    const { db } = database
    const edge = await accepted({ width: 640, height: 640, n: 1 })
    await ageBy(edge, 40)
    await accepted({ width: 1024, height: 1024, n: 3 })
    await accepted({ width: 2048, height: 2048, n: 1, priority: 'batch' })
    const running = await accepted({ width: 1024, height: 1024, n: 2 })
    await claimJob(db, { jobId: running, workerId: 'w', leaseSeconds: 60, maxFailedAttempts: 3 })
    await deliver(db, running, 1, 0)
    const crashed = await accepted({ width: 1024, height: 1024, n: 2 })
    await claimJob(db, { jobId: crashed, workerId: 'w', leaseSeconds: 0, maxFailedAttempts: 3 })
    await deliver(db, crashed, 1, 0)
    await ageBy(crashed, 500)
    const overdue = await accepted({ width: 1024, height: 1024, n: 1 })
    await ageBy(overdue, 5_000)
    await db.sql`update job set deadline_at = now() - interval '1 s' where id = ${overdue}`
    const canceled = await accepted({ width: 1024, height: 1024, n: 1 })
    await db.sql`update job set finished_at = now(), state = 'canceled' where id = ${canceled}`

    const backlog = await read()
    expect(backlog.groups).toEqual([
      { phase: 'running', priority: 'standard', sizeClass: 1, jobs: 1, images: 1 },
      { phase: 'waiting', priority: 'batch', sizeClass: 2, jobs: 1, images: 1 },
      { phase: 'waiting', priority: 'standard', sizeClass: 0, jobs: 1, images: 1 },
      { phase: 'waiting', priority: 'standard', sizeClass: 1, jobs: 2, images: 4 },
    ])
    expect([backlog.isPartial, backlog.busyWorkers]).toEqual([false, 1])
    // Neither one that somebody began nor one that is over is a wait for a first GPU.
    expect(backlog.oldestWaitSeconds).toBeGreaterThanOrEqual(40)
    expect(backlog.oldestWaitSeconds).toBeLessThan(60)
    expect(workOf(backlog, 'standard')).toEqual([
      { sizeClass: 'small', jobs: 1, gpuSeconds: 25 },
      { sizeClass: 'medium', jobs: 2, gpuSeconds: 256 },
    ])
    expect(workOf(backlog, 'batch')).toEqual([{ sizeClass: 'large', jobs: 1, gpuSeconds: 253 }])
  })

  test('says when there is more than it read', async () => {
    const backlog = await read(2)
    expect(backlog.isPartial).toBe(true)
    expect(backlog.groups.reduce((sum, { jobs }) => sum + jobs, 0)).toBeLessThanOrEqual(2)
  })

  test('is nothing on an empty database', async () => {
    const empty = await createTestDatabase()
    try {
      const backlog = await readBacklog(empty.db, { classBounds: CLASS_BOUNDS, limit: 10 })
      expect(backlog).toEqual({
        groups: [],
        oldestWaitSeconds: 0,
        busyWorkers: 0,
        isPartial: false,
      })
    } finally {
      await empty.close()
    }
  })

  test('reads unfinished jobs by their index and no more than asked, however many there are', async () => {
    const full = await createTestDatabase()
    try {
      await full.db.sql`
        insert into job (id, org_id, team_id, key_id, request_hash, dialect, model, width, height, n, seed, format,
                         state, created_at, finished_at, deadline_at)
        select 'job_' || i, 'o', 't', 'k', 'h', 'native', 'm', 64, 64, 1, 1, 'png',
               case when i % 20 = 0 then 'queued' else 'succeeded' end, now() - i * interval '1 s',
               case when i % 20 = 0 then null else now() end, now() + interval '1 hour'
          from generate_series(1, 100000) i`
      await full.db.sql`vacuum analyze job`
      const plan = await explain(full.db)
      expect(plan).toMatch(/Index Scan using job_open_by_age on job/)
      expect(plan).not.toMatch(/Seq Scan/)
      expect(plan).toMatch(/Limit .*rows=500[. ]/)
    } finally {
      await full.close()
    }
  }, 60_000)
})

/** The plan of the very statement, with what it read. */
async function explain(db: Db): Promise<string> {
  const spied = (parts: TemplateStringsArray, ...values: unknown[]) => {
    const text = parts.reduce((made, part, index) => `${made}$${index}${part}`)
    return db.sql.unsafe(`explain (analyze, costs off, timing off) ${text}`, values as never[])
  }
  const lines: string[] = []
  const spy = {
    ...db,
    sql: async (parts: TemplateStringsArray, ...values: unknown[]) => {
      const rows = await spied(parts, ...values)
      lines.push(...rows.map((row) => String(row['QUERY PLAN'])))
      return []
    },
  } as unknown as Db
  await readBacklog(spy, { classBounds: CLASS_BOUNDS, limit: 500 })
  return lines.join('\n')
}
