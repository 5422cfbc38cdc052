import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { expireOverdue } from '../../billing/expire.ts'
import { settleJob } from '../../billing/settle.ts'
import type { Db } from '../../db/client.ts'
import { beatJob, claimJob, giveBackJob, requestCancel } from '../../db/job-claims.ts'
import { findJob, markJobDeleted } from '../../db/jobs.ts'
import { restageDispatch } from '../../db/outbox.ts'
import { checkBooks } from '../support/books.ts'
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

function claim(jobId: string, leaseSeconds = 60) {
  return claimJob(database.db, { jobId, workerId: 'w', leaseSeconds, maxFailedAttempts: 3 })
}

async function passDeadline(jobId: string): Promise<void> {
  await database.db.sql`update job set deadline_at = now() where id = ${jobId}`
}

describe('settling', () => {
  test('ten settles of one job at once charge it once', async () => {
    const { db } = database
    const jobId = await accepted()
    await claim(jobId)
    await deliver(db, jobId, 1)
    const results = await Promise.all(
      Array.from({ length: 10 }, () => settleJob(db, { jobId, attempt: 1, outcome: 'succeeded' })),
    )
    expect(results.filter(({ outcome }) => outcome === 'settled')).toHaveLength(1)
    expect(results.filter(({ outcome }) => outcome === 'repeated')).toHaveLength(9)
    expect(
      results.every((result) => 'capturedMicros' in result && result.capturedMicros === 15_000n),
    ).toBe(true)
    expect(await checkBooks(db)).toEqual([])
  })

  test('a worker that lost its lease records nothing and settles nothing', async () => {
    const { db } = database
    const jobId = await accepted()
    await claim(jobId, 0)
    expect((await claim(jobId)).outcome).toBe('claimed')
    expect(await deliver(db, jobId, 1)).toBe(false)
    expect(await settleJob(db, { jobId, attempt: 1, outcome: 'failed' })).toEqual({
      outcome: 'superseded',
    })
    expect(await beatJob(db, { jobId, attempt: 1, leaseSeconds: 60 })).toMatchObject({
      owned: false,
    })
    await deliver(db, jobId, 2)
    expect(await settleJob(db, { jobId, attempt: 2, outcome: 'succeeded' })).toMatchObject({
      outcome: 'settled',
    })
    expect(await checkBooks(db)).toEqual([])
  })

  test('two of three images delivered: two are charged, the third is released', async () => {
    const { db } = database
    const jobId = await accepted({ n: 3 })
    await claim(jobId)
    await deliver(db, jobId, 1, 0)
    await deliver(db, jobId, 1, 1)
    const settled = await settleJob(db, {
      jobId,
      attempt: 1,
      outcome: 'failed',
      errorCode: 'engine_crashed',
    })
    expect(settled).toMatchObject({
      state: 'succeeded',
      capturedMicros: 30_000n,
      deliveredCount: 2,
    })
    const found = await findJob(db, { orgId: tenant.orgId, jobId })
    expect(found?.job).toMatchObject({ billedReason: 'partial', errorCode: 'engine_crashed' })
    expect(await checkBooks(db)).toEqual([])
  })

  test('success without a stored image is refused as a bug and changes nothing', async () => {
    const { db } = database
    const jobId = await accepted()
    await claim(jobId)
    await expect(settleJob(db, { jobId, attempt: 1, outcome: 'succeeded' })).rejects.toThrow(
      /cannot succeed/,
    )
    expect(await settleJob(db, { jobId, attempt: 1, outcome: 'failed' })).toMatchObject({
      capturedMicros: 0n,
    })
    expect(await checkBooks(db)).toEqual([])
  })
})

describe('cancel and expiry', () => {
  test('a waiting job is canceled at once and never billed; a later claim finds it gone', async () => {
    const { db } = database
    const jobId = await accepted()
    expect(await requestCancel(db, { orgId: tenant.orgId, jobId })).toEqual({ outcome: 'canceled' })
    expect(await requestCancel(db, { orgId: tenant.orgId, jobId })).toEqual({ outcome: 'finished' })
    expect((await claim(jobId)).outcome).toBe('gone')
    expect(await requestCancel(db, { orgId: 'org_other', jobId })).toEqual({ outcome: 'not_found' })
    expect(await checkBooks(db)).toEqual([])
  })

  test('a running job is asked to stop; its worker hears of it with the next beat', async () => {
    const { db } = database
    const jobId = await accepted()
    await claim(jobId)
    expect(await requestCancel(db, { orgId: tenant.orgId, jobId })).toEqual({
      outcome: 'requested',
    })
    expect(await beatJob(db, { jobId, attempt: 1, leaseSeconds: 60 })).toEqual({
      owned: true,
      cancelRequested: true,
      overdue: false,
    })
    await settleJob(db, { jobId, attempt: 1, outcome: 'canceled' })
    expect(await checkBooks(db)).toEqual([])
  })

  test('a job past its deadline expires and releases its hold; a live worker hears of it with its next beat', async () => {
    const { db } = database
    const waiting = await accepted({ deadlineSeconds: 0 })
    const running = await accepted()
    await claim(running)
    await passDeadline(running)
    expect(await expireOverdue(db, { limit: 100 })).toBe(1)
    expect((await findJob(db, { orgId: tenant.orgId, jobId: waiting }))?.job.state).toBe('expired')
    // Nobody canceled it.
    expect(await beatJob(db, { jobId: running, attempt: 1, leaseSeconds: 0 })).toEqual({
      owned: true,
      cancelRequested: false,
      overdue: true,
    })
    expect(await expireOverdue(db, { limit: 100 })).toBe(1)
    expect((await findJob(db, { orgId: tenant.orgId, jobId: running }))?.job).toMatchObject({
      state: 'expired',
      errorCode: 'deadline_exceeded',
      billedReason: 'expired',
    })
    expect(await checkBooks(db)).toEqual([])
  })

  test('a wish to cancel outlives the worker that heard it: the next one settles and draws nothing', async () => {
    const { db } = database
    const jobId = await accepted()
    await claim(jobId)
    await requestCancel(db, { orgId: tenant.orgId, jobId })
    expect((await claim(jobId)).outcome).toBe('busy')
    await giveBackJob(db, { jobId, attempt: 1, countFailure: false })
    expect(await claim(jobId)).toEqual({ outcome: 'canceled' })
    const crashed = await accepted()
    await claim(crashed, 0)
    await requestCancel(db, { orgId: tenant.orgId, jobId: crashed })
    expect((await claim(crashed)).outcome).toBe('gone')
  })

  test('a job past its deadline is not claimed any more, also when it has failed before', async () => {
    const jobId = await accepted()
    await claim(jobId, 0)
    await passDeadline(jobId)
    expect(await claim(jobId)).toEqual({ outcome: 'overdue' })
  })

  test('a job that cannot be settled keeps no other from expiring, and is named', async () => {
    const { db } = database
    const poison = await accepted({ deadlineSeconds: 0 })
    const after = await accepted({ deadlineSeconds: 0 })
    // A ledger entry that settling would have to write is there already: to go on would charge beside the ledger.
    const source = poison.slice(4)
    await db.sql`insert into ledger_txn (id, kind, source_id)
      values (${`led_release_${source}`}, 'release', ${source})`
    await expect(expireOverdue(db, { limit: 100 })).rejects.toThrow(
      `the hold of job ${poison} was released before`,
    )
    const states = await Promise.all(
      [poison, after].map((jobId) => findJob(db, { orgId: tenant.orgId, jobId })),
    )
    expect(states.map((found) => found?.job.state)).toEqual(['accepted', 'expired'])
    await db.sql`alter table ledger_txn disable trigger user`
    await db.sql`delete from ledger_txn where id = ${`led_release_${source}`}`
    await db.sql`alter table ledger_txn enable trigger user`
    expect(await expireOverdue(db, { limit: 100 })).toBe(1)
    expect(await checkBooks(db)).toEqual([])
  })
})

describe('attempts', () => {
  test('three crashes exhaust a job, graceful give-backs never do', async () => {
    const { db } = database
    const jobId = await accepted()
    for (let round = 1; round <= 5; round++) {
      expect((await claim(jobId)).outcome).toBe('claimed')
      expect(await giveBackJob(db, { jobId, attempt: round, countFailure: false })).toBe(true)
    }
    for (let round = 0; round < 3; round++) expect((await claim(jobId, 0)).outcome).toBe('claimed')
    expect((await claim(jobId, 0)).outcome).toBe('exhausted')
    expect(await settleJob(db, { jobId, attempt: null, outcome: 'failed' })).toMatchObject({
      state: 'failed',
    })
    expect(await checkBooks(db)).toEqual([])
  })

  test('a job that a live worker holds is busy', async () => {
    const jobId = await accepted()
    await claim(jobId)
    expect((await claim(jobId)).outcome).toBe('busy')
    expect(await settleJob(database.db, { jobId, attempt: null, outcome: 'failed' })).toEqual({
      outcome: 'superseded',
    })
  })
})

test('deleting a job forgets prompt and images and keeps the ledger line', async () => {
  const { db } = database
  const jobId = await accepted()
  await claim(jobId)
  expect(await markJobDeleted(db, { orgId: tenant.orgId, jobId })).toEqual({
    ok: false,
    reason: 'not_finished',
  })
  await deliver(db, jobId, 1)
  await settleJob(db, { jobId, attempt: 1, outcome: 'succeeded' })
  const first = await markJobDeleted(db, { orgId: tenant.orgId, jobId })
  expect(first).toEqual({ ok: true, images: 1 })
  expect(await markJobDeleted(db, { orgId: tenant.orgId, jobId })).toEqual(first)
  expect((await findJob(db, { orgId: tenant.orgId, jobId }))?.job.prompt).toBeNull()
  const usage = await db.sql`select net_micros from usage_event where job_id = ${jobId}`
  expect(usage).toHaveLength(1)
  expect(await checkBooks(db)).toEqual([])
})

test('ledger, usage and prices cannot be edited', async () => {
  const { db } = database
  for (const table of ['ledger_entry', 'ledger_txn', 'usage_event', 'price_version']) {
    await expect(db.sql`delete from ${db.sql(table)}`).rejects.toThrow(/append-only/)
  }
})

test('entries that do not sum to zero, or lie nowhere, are refused where they are written', async () => {
  const { db } = database
  await db.sql`select post_transfer('credit', 'old', 'clearing', 'revenue', 5, 'posted')`
  const entry = async (txn: string, account: string, phases = ['posted', 'posted']) => {
    await db.sql`insert into ledger_txn (id, kind, source_id) values ('led_x', 'test', 'x') on conflict do nothing`
    await db.sql`
      insert into ledger_entry (txn_id, account_id, amount_micros, phase)
      values (${txn}, ${account}, 5, ${phases[0] ?? ''}), (${txn}, 'revenue', -5, ${phases[1] ?? ''})`
  }
  const one = db.sql`
    insert into ledger_entry (txn_id, account_id, amount_micros, phase) values ('led_credit_old', 'revenue', 5, 'posted')`
  await expect(one).rejects.toThrow(/led_credit_old does not sum to zero/)
  await expect(entry('led_x', 'revenue', ['posted', 'pending'])).rejects.toThrow(/sum to zero/)
  await expect(entry('led_y', 'clearing')).rejects.toThrow(/is not there/)
  await expect(entry('led_x', 'receivable:nobody')).rejects.toThrow(/is not there/)
  await entry('led_x', 'clearing')
  await entry('led_credit_old', 'clearing')
  const rows = await db.sql`select 1 from ledger_entry where txn_id in ('led_x', 'led_credit_old')`
  expect(rows).toHaveLength(6)
})

describe('the sweep of a full table', () => {
  /** The plan of a statement for any values, as a line per step. */
  async function planOf(db: Db, run: (db: Db) => Promise<unknown>): Promise<string> {
    const seen: string[] = []
    const spy = { ...db, sql: Object.assign(capture(seen), db.sql) } as Db
    await run(spy).catch(() => {})
    const lines = await db.sql.unsafe(`explain (generic_plan) ${seen[0] ?? ''}`)
    return lines.map((line) => String(line['QUERY PLAN'])).join('\n')
  }

  /** Keeps a statement's text and runs nothing. */
  function capture(seen: string[]) {
    return (parts: TemplateStringsArray) => {
      seen.push(parts.reduce((text, part, index) => `${text}$${index}${part}`))
      return Promise.reject(new Error('captured'))
    }
  }

  test('reads unfinished jobs by an index, however many have ended', async () => {
    // Its own database: these jobs have no money.
    const full = await createTestDatabase()
    try {
      await full.db.sql`
        insert into job (id, org_id, team_id, key_id, request_hash, dialect, model, width, height, n, seed, format,
                         state, created_at, finished_at, deadline_at)
        select 'job_' || i, 'o', 't', 'k', 'h', 'native', 'm', 64, 64, 1, 1, 'png', 'succeeded',
               now() - interval '1 day', now(), now() - interval '23 hours' from generate_series(1, 100000) i`
      await full.db.sql`analyze job`
      const expiry = await planOf(full.db, (db) => expireOverdue(db, { limit: 100 }))
      expect(expiry).toMatch(/Index Scan using job_open_by_deadline/)
      const lost = { olderThanSeconds: 900, limit: 200 }
      const restaging = await planOf(full.db, (db) => restageDispatch(db, lost))
      expect(restaging).toMatch(/Index Scan using job_open_by_age/)
      expect(expiry + restaging).not.toMatch(/Seq Scan on job/)
    } finally {
      await full.close()
    }
  }, 60_000)
})
