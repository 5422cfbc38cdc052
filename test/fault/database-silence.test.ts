import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { closeDatabase, openDatabase, withTransaction } from '../../db/client.ts'
import { isOutage } from '../../db/outage.ts'
import type { Db } from '../../db/client.ts'
import { listOutputs } from '../../db/jobs.ts'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { startWire } from '../support/wire.ts'
import type { Wire } from '../support/wire.ts'

/** So that a silence is noticed within a second and a half. */
const STATEMENT_TIMEOUT_MS = 1_000

let database: TestDatabase
let wire: Wire
let db: Db
beforeAll(async () => {
  database = await createTestDatabase()
  wire = await startWire(database.url)
  db = openDatabase(wire.url, { maxConnections: 2, statementTimeoutMs: STATEMENT_TIMEOUT_MS })
})
afterAll(async () => {
  await closeDatabase(db)
  await wire.close()
  await database.close()
})

async function answer(): Promise<unknown> {
  const [row] = await db.sql`select 1 as one`
  return row?.['one']
}

/** The error with which a call fails, soon enough. */
async function failureOf(work: Promise<unknown>): Promise<unknown> {
  const startedAt = performance.now()
  const error = await work.then(
    () => 'no failure',
    (failure: unknown) => failure,
  )
  expect(performance.now() - startedAt).toBeLessThan(5 * STATEMENT_TIMEOUT_MS)
  expect(isOutage(error)).toBe(true)
  return error
}

describe('a database that falls silent without closing its connections', () => {
  test.each([
    ['a statement', () => answer()],
    ['a query of the builder', () => listOutputs(db, 'job_x')],
    ['a transaction before its first statement', () => withTransaction(db, async () => {})],
  ])('fails %s in time, and the next one goes over a new connection', async (_name, call) => {
    // Both connections of the pool are open.
    await Promise.all([answer(), answer(), answer()])
    wire.silence()
    await failureOf(call())
    expect(await answer()).toBe(1)
  })

  test('fails a transaction in time, and what it had written is undone', async () => {
    // The pool may still be busy with what the test before did to it.
    await expect.poll(answer).toBe(1)
    await db.sql`drop table if exists note`
    await db.sql`create table note (text text)`
    const failed = failureOf(
      withTransaction(db, async (tx) => {
        await tx.sql`insert into note values ('half')`
        wire.silence()
        await tx.sql`insert into note values ('whole')`
      }),
    )
    expect(await failed).toMatchObject({ code: 'CONNECTION_SILENT' })
    expect(await db.sql`select * from note`).toHaveLength(0)
    // Its locks are gone too, although nobody closed its connection.
    await database.db.sql`drop table note`
  })

  test('fails every call that waits, and none after them', async () => {
    await Promise.all([answer(), answer(), answer()])
    wire.silence()
    const waiting = await Promise.allSettled(Array.from({ length: 5 }, () => answer()))
    expect(waiting.every((call) => call.status === 'rejected' && isOutage(call.reason))).toBe(true)
    const later = await Promise.all(Array.from({ length: 5 }, () => answer()))
    expect(later).toEqual([1, 1, 1, 1, 1])
  })
})

describe('a connection that is cut in the middle of a transaction', () => {
  // A statement written to the closed socket would throw outside of every call and fail this run.
  test.each([
    ['while a statement runs', 'select pg_sleep(0.5)'],
    ['between two statements', null],
  ])('%s fails it, writes nothing and ends no process', async (_name, running) => {
    // The pool may still be busy with what the test before did to it.
    await expect.poll(answer).toBe(1)
    await db.sql`drop table if exists note`
    await db.sql`create table note (text text)`
    const failed = failureOf(
      withTransaction(db, async (tx) => {
        await tx.sql`insert into note values ('half')`
        if (running === null) wire.cut()
        else setTimeout(() => wire.cut(), 100)
        await (running === null ? answerOnce() : tx.sql.unsafe(running))
        // Over another connection it would be a transaction of its own.
        await tx.sql`insert into note values ('whole')`
      }),
    )
    expect(await failed).toMatchObject({ code: 'CONNECTION_CLOSED' })
    await expect.poll(answer).toBe(1)
    expect(await db.sql`select * from note`).toHaveLength(0)
    await db.sql`drop table note`
  })

  /** Until the pool has noticed the cut and has a connection again. */
  async function answerOnce(): Promise<void> {
    await expect.poll(answer).toBe(1)
  }
})

test('a slow statement is ended by the server and costs no other its connection', async () => {
  const slow = db.sql`select pg_sleep(60)`.then(
    () => null,
    (error: unknown) => error,
  )
  const [before] = await db.sql`select pg_backend_pid() as pid`
  expect(await slow).toMatchObject({ code: '57014' })
  const pids = await Promise.all([1, 2, 3].map(() => db.sql`select pg_backend_pid() as pid`))
  expect(pids.flat().map((row) => row['pid'])).toContain(before?.['pid'])
})

test('a part of another statement does not run by itself', async () => {
  const part = db.sql`'whole'::text`
  const [row] = await db.sql`select ${part} as text`
  expect(row?.['text']).toBe('whole')
})

test('a new connection asks nothing of its own, so that its end reaches its caller alone', async () => {
  const question = wire.trap({ when: 'after', sql: 'pg_type' })
  const fresh = openDatabase(wire.url, { maxConnections: 1, statementTimeoutMs: 60_000 })
  const first = await Promise.race([
    fresh.sql`select 1`.then(() => 'the caller was answered'),
    question.reached.then(() => 'the driver asks'),
  ])
  // A rejection that nobody awaits fails this run.
  await closeDatabase(fresh, { timeoutSeconds: 0 })
  question.release()
  expect(first).toBe('the caller was answered')
})

test('lists of texts and of whole numbers go to the server and back as they are', async () => {
  const texts = ['', 'plain', 'a "word"', 'back\\slash', 'a, b', '{}', 'NULL', 'two\nlines', 'ü']
  const [row] = await db.sql`
    select ${texts}::text[] as texts, ${[]}::text[] as none, array[null, 'x'] as gaps, ${[-1, 0, 2]}::int[] as ints,
           ${['9007199254740993']}::bigint[] as bigints`
  expect(row).toEqual({
    texts,
    none: [],
    gaps: [null, 'x'],
    ints: [-1, 0, 2],
    bigints: [9_007_199_254_740_993n],
  })
})
