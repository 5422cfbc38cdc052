import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ReserveOverload, createReserveQueue } from '../../billing/reserve-queue.ts'
import { reserveJobs } from '../../billing/reserve.ts'
import type { ReserveInput, ReserveResult } from '../../billing/reserve.ts'
import { openDatabase } from '../../db/client.ts'
import { revokeKey } from '../../db/keys.ts'
import { setBudget } from '../../db/orgs.ts'
import { NO_OBJECTS, createTestApp } from '../support/app.ts'
import { checkBooks } from '../support/books.ts'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import {
  IMAGE_MICROS,
  LIST_PRICE,
  createBareKey,
  createBareTenant,
  newJob,
  reserve,
} from '../support/jobs.ts'
import type { BareTenant } from '../support/jobs.ts'
import { applyOp, createModel } from '../support/money-model.ts'
import { createWorld, pick } from '../support/money-world.ts'
import type { Op, World } from '../support/money-world.ts'
import { createTenant } from '../support/tenant.ts'
import { startWire } from '../support/wire.ts'

let database: TestDatabase
beforeAll(async () => {
  database = await createTestDatabase({ maxConnections: 24 })
})
afterAll(() => database.close())

function order(tenant: BareTenant, changes: Parameters<typeof newJob>[1] = {}): ReserveInput {
  return { job: newJob(tenant, changes), price: LIST_PRICE }
}

async function jobsOf(orgId: string): Promise<number> {
  const [row] = await database.db.sql<{ jobs: number }[]>`
    select count(*)::int as jobs from job where org_id = ${orgId}`
  return row?.jobs ?? 0
}

/** Holds the org's budget row, so that its writer is at work until `release`. */
async function blockOrg(orgId: string) {
  let release = () => {}
  const released = new Promise<void>((resolve) => (release = resolve))
  let taken = () => {}
  const isTaken = new Promise<void>((resolve) => (taken = resolve))
  const done = database.db.sql.begin(async (sql) => {
    await sql`select 1 from budget where scope = 'org' and scope_id = ${orgId} for update`
    taken()
    await released
  })
  await isTaken
  return { release, done }
}

const LEVELS = ['key', 'team', 'org'] as const
describe.each([1, 10, 1000])('%i calls at once', (atOnce) => {
  test.each(LEVELS)('on a %s budget of exactly k images admit exactly k', async (level) => {
    const { db } = database
    const k = 40
    const limit = { [level]: { creditMicros: BigInt(k) * IMAGE_MICROS } }
    const tenant = await createBareTenant(db, limit)
    const keys =
      level === 'key'
        ? [tenant]
        : await Promise.all(
            [1, 2, 3].map(async () => {
              const shared = level === 'team' ? { teamId: tenant.teamId } : {}
              const made = await createBareKey(db, tenant.orgId, shared)
              return { ...tenant, ...made }
            }),
          )
    // Two processes, each with a writer of its own.
    const queues = [createReserveQueue(db), createReserveQueue(db)]
    const results: ReserveResult[] = []
    const total = Math.max(64, atOnce)
    let made = 0
    const caller = async () => {
      while (made < total) {
        const index = made++
        const queue = queues[index % queues.length]
        const key = keys[index % keys.length]
        if (queue && key) results.push(await queue(order(key)))
      }
    }
    await Promise.all(Array.from({ length: atOnce }, caller))
    expect(results).toHaveLength(total)
    expect(results.filter((result) => result.ok)).toHaveLength(k)
    expect(await jobsOf(tenant.orgId)).toBe(k)
    expect(await checkBooks(db)).toEqual([])
  })
})

describe('a batch', () => {
  type Call = Extract<Op, { op: 'reserve' }>
  const call: fc.Arbitrary<Call> = fc.record({
    op: fc.constant('reserve' as const),
    key: fc.nat(2),
    n: fc.integer({ min: 1, max: 4 }),
    order: fc.option(fc.nat(3), { freq: 3 }),
    body: fc.constantFrom('a' as const, 'a' as const, 'b' as const),
  })
  const limit: fc.Arbitrary<Op> = fc.record({
    op: fc.constant('limit' as const),
    level: fc.nat(5),
    field: fc.constantFrom('creditMicros', 'dayLimitMicros', 'monthLimitMicros', 'maxInflight'),
    images: fc.nat(14),
  })

  function toInput(world: World, { key, n, order: name, body }: Call): ReserveInput {
    const tenant = pick(world.keys, key)
    if (!tenant) throw new Error('no such key')
    const idempotencyKey = name === null ? null : `order-${name}`
    return order(tenant, { n, idempotencyKey, requestHash: `${body}${n}` })
  }

  async function setUp(limits: Op[]) {
    const world = await createWorld(database.db, false)
    const prepare = () => {
      const model = createModel(world)
      for (const op of limits) applyOp(model, op)
      return model
    }
    for (const op of limits) {
      if (op.op !== 'limit') continue
      const level = pick(world.levels, op.level)
      const unit = op.field === 'maxInflight' ? 1n : IMAGE_MICROS
      const value = BigInt(op.images ?? 0) * unit
      if (!level) continue
      await setBudget(database.db, {
        ...level,
        [op.field]: op.field === 'maxInflight' ? op.images : value,
      })
    }
    return { world, prepare }
  }

  /** Whether the model, asked in this order, may answer so. */
  function isAnswer(
    model: ReturnType<typeof createModel>,
    calls: Call[],
    results: ReserveResult[],
  ) {
    return calls.every((one, index) => {
      const expected = applyOp(model, one) ?? []
      const result = results[index]
      return expected.some((answer) =>
        Object.entries(answer).every(
          ([name, value]) => result !== undefined && Reflect.get(result, name) === value,
        ),
      )
    })
  }

  function permutations<T>(list: T[]): T[][] {
    if (list.length < 2) return [list]
    return list.flatMap((one, index) =>
      permutations(list.toSpliced(index, 1)).map((rest) => [one, ...rest]),
    )
  }

  test('answers as the same calls made one after the other, whatever limits are set', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(limit, { maxLength: 4 }),
        fc.array(fc.array(call, { minLength: 1, maxLength: 12 }), { minLength: 1, maxLength: 4 }),
        async (limits, batches) => {
          const { world, prepare } = await setUp(limits)
          const model = prepare()
          for (const calls of batches) {
            const inputs = calls.map((one) => toInput(world, one))
            const results = await reserveJobs(database.db, inputs)
            expect(isAnswer(model, calls, results)).toBe(true)
          }
          expect(await checkBooks(database.db)).toEqual([])
        },
      ),
      { numRuns: 40 },
    )
  }, 300_000)

  test('beside others at the same moment: all answer as in some order of the batches', async () => {
    // Orders are left out: the answer to a repeat is asked for after its batch.
    const fresh = call.map((one) => ({ ...one, order: null }))
    await fc.assert(
      fc.asyncProperty(
        fc.array(limit, { minLength: 1, maxLength: 4 }),
        fc.array(fc.array(fresh, { minLength: 1, maxLength: 6 }), { minLength: 2, maxLength: 4 }),
        async (limits, batches) => {
          const { world, prepare } = await setUp(limits)
          const made = await Promise.all(
            batches.map(async (calls) => {
              const inputs = calls.map((one) => toInput(world, one))
              return { calls, results: await reserveJobs(database.db, inputs) }
            }),
          )
          const isSerial = permutations(made).some((sequence) => {
            const model = prepare()
            return sequence.every(({ calls, results }) => isAnswer(model, calls, results))
          })
          expect(isSerial).toBe(true)
          expect(await checkBooks(database.db)).toEqual([])
        },
      ),
      { numRuns: 40 },
    )
  }, 300_000)

  test('of one order made twice is one job: the second call hears of the first', async () => {
    const tenant = await createBareTenant(database.db)
    const first = order(tenant, { idempotencyKey: 'twice' })
    const [one, same, again, other] = await reserveJobs(database.db, [
      first,
      first,
      order(tenant, { idempotencyKey: 'twice' }),
      order(tenant, { idempotencyKey: 'twice', requestHash: 'another' }),
    ])
    const { id: jobId } = first.job
    expect(one).toMatchObject({ ok: true, jobId, replayed: false })
    expect(same).toMatchObject({ ok: true, jobId, replayed: false })
    expect(again).toMatchObject({ ok: true, jobId, replayed: true })
    expect(other).toEqual({ ok: false, reason: 'idempotency_mismatch', jobId })
    expect(await jobsOf(tenant.orgId)).toBe(1)
  })

  test('gives each accepted call the message of its own job', async () => {
    const { db } = database
    const tenant = await createBareTenant(db)
    const results = await reserveJobs(
      db,
      Array.from({ length: 20 }, () => order(tenant)),
    )
    for (const result of results) {
      if (!result.ok) throw new Error(result.reason)
      const [row] = await db.sql`select payload from outbox where id = ${String(result.outboxId)}`
      expect(row?.['payload']).toEqual({ job_id: result.jobId, org_id: tenant.orgId })
    }
  })
})

describe('the writer of an org', () => {
  test('makes what came while it was at work in one call, and starts nothing for a key revoked meanwhile', async () => {
    const { db } = database
    const tenant = await createBareTenant(db)
    const revoked = { ...tenant, ...(await createBareKey(db, tenant.orgId)) }
    const wire = await startWire(database.url)
    const far = openDatabase(wire.url, { maxConnections: 4 })
    const queue = createReserveQueue(far)
    const block = await blockOrg(tenant.orgId)
    const trap = wire.trap({ when: 'before', sql: 'reserve_jobs', nth: 2 })
    const calls = [tenant, tenant, revoked, tenant, revoked, tenant].map((who) => queue(order(who)))
    await revokeKey(db, revoked)
    block.release()
    await block.done
    await trap.reached
    trap.release()
    const results = await Promise.all(calls)
    expect(results.map((result) => (result.ok ? 'made' : result.reason))).toEqual([
      'made',
      'made',
      'key_inactive',
      'made',
      'key_inactive',
      'made',
    ])
    // All rows of the five came in with one transaction.
    const rows = await db.sql`
      select distinct e.xid::text from ledger_entry e where e.account_id = ${`receivable:${tenant.orgId}`}`
    expect(rows).toHaveLength(2)
    expect(await checkBooks(db)).toEqual([])
    await far.sql.end({ timeout: 0 })
    await wire.close()
  })

  test('lets a broken call fail alone', async () => {
    const { db } = database
    const tenant = await createBareTenant(db)
    const queue = createReserveQueue(db)
    const block = await blockOrg(tenant.orgId)
    const broken = [
      order(tenant, { prompt: 'not for Postgres: \u0000' }),
      order(tenant, { n: 11 }),
      { ...order(tenant), price: { ...LIST_PRICE, priceVersionId: 'price_of_nobody' } },
    ]
    const calls = [order(tenant), order(tenant), ...broken, order(tenant)].map(queue)
    block.release()
    await block.done
    const results = await Promise.allSettled(calls)
    expect(results.map(({ status }) => status)).toEqual([
      'fulfilled',
      'fulfilled',
      'rejected',
      'rejected',
      'rejected',
      'fulfilled',
    ])
    expect(await jobsOf(tenant.orgId)).toBe(3)
    expect(await checkBooks(db)).toEqual([])
  })

  test('repeats a batch whose answer is lost, and holds nothing twice', async () => {
    const tenant = await createBareTenant(database.db, { org: { creditMicros: 6n * IMAGE_MICROS } })
    const wire = await startWire(database.url)
    const far = openDatabase(wire.url, { maxConnections: 2 })
    const queue = createReserveQueue(far)
    const block = await blockOrg(tenant.orgId)
    const trap = wire.trap({ when: 'after', sql: 'reserve_jobs', nth: 2 })
    const calls = Array.from({ length: 8 }, () => queue(order(tenant)))
    block.release()
    await block.done
    await trap.reached
    wire.cut()
    trap.release()
    const results = await Promise.all(calls)
    expect(results.filter((result) => result.ok && !result.replayed)).toHaveLength(6)
    expect(await jobsOf(tenant.orgId)).toBe(6)
    expect(await checkBooks(database.db)).toEqual([])
    await far.sql.end({ timeout: 0 })
    await wire.close()
  })

  test('delays no other org, and turns calls away when too many wait', async () => {
    const { db } = database
    const [hot, calm] = [await createBareTenant(db), await createBareTenant(db)]
    const queue = createReserveQueue(db, { maxWaiting: 2 })
    const block = await blockOrg(hot.orgId)
    const waiting = [1, 2, 3].map(() => queue(order(hot)))
    await expect(queue(order(hot))).rejects.toBeInstanceOf(ReserveOverload)
    expect((await queue(order(calm))).ok).toBe(true)
    block.release()
    await block.done
    expect((await Promise.all(waiting)).map((result) => result.ok)).toEqual([true, true, true])
    expect(await jobsOf(hot.orgId)).toBe(3)
  })

  test('that is overloaded makes the gateway answer 429 with a time to wait, and no job', async () => {
    const tenant = await createTenant(database.db)
    const app = createTestApp(database.db, {
      objects: NO_OBJECTS,
      reserve: () => Promise.reject(new ReserveOverload()),
    })
    const body = { prompt: 'A sign' }
    const response = await app.call('POST', '/v1/jobs', { apiKey: tenant.apiKey, body })
    expect([response.status, response.headers.get('retry-after')]).toEqual([429, '1'])
    expect(await jobsOf(tenant.orgId)).toBe(0)
  })

  test('that loses the database fails all who wait, and takes up again with the next call', async () => {
    const tenant = await createBareTenant(database.db)
    const wire = await startWire(database.url)
    const far = openDatabase(wire.url, { maxConnections: 2 })
    const queue = createReserveQueue(far)
    const traps = [1, 2].map(() => wire.trap({ when: 'before', sql: 'reserve_jobs' }))
    const calls = [1, 2, 3].map(() => queue(order(tenant)))
    for (const trap of traps) {
      await trap.reached
      wire.cut()
    }
    const results = await Promise.allSettled(calls)
    expect(results.map(({ status }) => status)).toEqual(['rejected', 'rejected', 'rejected'])
    expect((await queue(order(tenant))).ok).toBe(true)
    expect(await jobsOf(tenant.orgId)).toBe(1)
    await far.sql.end({ timeout: 0 })
    await wire.close()
  })
})

test('single calls beside batches of the same org never pass its budget', async () => {
  const { db } = database
  const tenant = await createBareTenant(db, { org: { creditMicros: 30n * IMAGE_MICROS } })
  const queue = createReserveQueue(db)
  const results = await Promise.all(
    Array.from({ length: 120 }, (_, index) =>
      index % 3 === 0 ? reserve(db, tenant) : queue(order(tenant)),
    ),
  )
  expect(results.filter((result) => result.ok)).toHaveLength(30)
  expect(await checkBooks(db)).toEqual([])
})
