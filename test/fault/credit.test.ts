import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { readBalance } from '../../billing/balance.ts'
import { expireCredit, grantCredit } from '../../billing/credit.ts'
import { refundImages, writeOff } from '../../billing/refund.ts'
import { settleJob } from '../../billing/settle.ts'
import { claimJob } from '../../db/job-claims.ts'
import { checkBooks } from '../support/books.ts'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { IMAGE_MICROS, createBareTenant, deliver, reserve } from '../support/jobs.ts'
import type { BareTenant } from '../support/jobs.ts'

let database: TestDatabase
beforeAll(async () => {
  database = await createTestDatabase({ maxConnections: 24 })
})
afterAll(async () => {
  expect(await checkBooks(database.db)).toEqual([])
  await database.close()
})

let sources = 0
function grant(
  tenant: BareTenant,
  images: number,
  changes: Partial<Parameters<typeof grantCredit>[1]> = {},
): Promise<boolean> {
  const amountMicros = BigInt(images) * IMAGE_MICROS
  const sourceId = `source-${(sources += 1)}`
  return grantCredit(database.db, { orgId: tenant.orgId, amountMicros, sourceId, ...changes })
}

async function hold(tenant: BareTenant, n: number): Promise<string> {
  const result = await reserve(database.db, tenant, { n })
  if (!result.ok) throw new Error(result.reason)
  return result.jobId
}

async function finish(jobId: string, delivered: number): Promise<void> {
  const { db } = database
  await claimJob(db, { jobId, workerId: 'w', leaseSeconds: 60, maxFailedAttempts: 3 })
  for (let idx = 0; idx < delivered; idx++) await deliver(db, jobId, 1, idx)
  await settleJob(db, { jobId, attempt: 1, outcome: delivered > 0 ? 'succeeded' : 'failed' })
}

async function buy(tenant: BareTenant, n: number): Promise<string> {
  const jobId = await hold(tenant, n)
  await finish(jobId, n)
  return jobId
}

/** What is left of each grant in images, oldest first. */
async function leftOf(tenant: BareTenant): Promise<number[]> {
  const rows = await database.db.sql<{ remaining: bigint }[]>`
    select remaining_micros as remaining from credit_grant where org_id = ${tenant.orgId} order by created_at, id`
  return rows.map(({ remaining }) => Number(remaining / IMAGE_MICROS))
}

async function posted(account: string): Promise<bigint> {
  const [row] = await database.db.sql<{ sum: bigint }[]>`
    select coalesce(sum(amount_micros), 0)::bigint as sum from ledger_entry
     where account_id = ${account} and phase = 'posted'`
  return row?.sum ?? 0n
}

async function available(tenant: BareTenant): Promise<number> {
  const [, , org] = await readBalance(database.db, tenant)
  return Number((org?.availableMicros ?? -1n) / IMAGE_MICROS)
}

/** Lets the time come at which credit of the org has expired. */
async function letExpire(tenant: BareTenant): Promise<void> {
  await database.db.sql`
    update credit_grant set expires_at = now() where org_id = ${tenant.orgId} and expires_at is not null`
}

const SOON = () => new Date(Date.now() + 3_600_000)
const prepaid = () => createBareTenant(database.db, { settlementMode: 'prepaid' })

describe('burning', () => {
  test('takes the lowest priority first, then what expires first, then the oldest', async () => {
    const tenant = await prepaid()
    await grant(tenant, 2)
    await grant(tenant, 2, { expiresAt: new Date(Date.now() + 7_200_000) })
    await grant(tenant, 2, { kind: 'promo', expiresAt: SOON() })
    await grant(tenant, 2, { priority: 10 })
    await buy(tenant, 3)
    expect(await leftOf(tenant)).toEqual([2, 2, 1, 0])
    await buy(tenant, 4)
    expect(await leftOf(tenant)).toEqual([1, 0, 0, 0])
    expect(await available(tenant)).toBe(1)
  })

  test('promotional credit of a postpaid org lowers what it owes and is shown on the usage lines', async () => {
    const { db } = database
    const tenant = await createBareTenant(db)
    await grantCredit(db, {
      orgId: tenant.orgId,
      amountMicros: 20_000n,
      sourceId: `welcome-${tenant.orgId}`,
      kind: 'promo',
    })
    await buy(tenant, 3)
    expect(await posted(`receivable:${tenant.orgId}`)).toBe(25_000n)
    const lines = await db.sql`
      select net_micros, credit_micros from usage_event where org_id = ${tenant.orgId} order by idx`
    expect(lines.map((line) => line.credit_micros)).toEqual([15_000n, 5_000n, 0n])
  })

  test('jobs that settle at once never burn more than there is', async () => {
    const tenant = await prepaid()
    for (let count = 0; count < 4; count++) await grant(tenant, 3, { kind: 'promo' })
    const jobs = await Promise.all(Array.from({ length: 6 }, () => hold(tenant, 2)))
    await Promise.all(jobs.map((jobId) => finish(jobId, 2)))
    expect(await leftOf(tenant)).toEqual([0, 0, 0, 0])
    expect(await checkBooks(database.db)).toEqual([])
  })
})

describe('expiry', () => {
  test('ends what no hold counts on, and the rest once the holds are gone', async () => {
    const { db } = database
    const tenant = await prepaid()
    await grant(tenant, 5, { expiresAt: SOON() })
    const jobId = await hold(tenant, 2)
    await letExpire(tenant)
    const before = await posted('breakage')
    await expireCredit(db, { limit: 100 })
    expect([await leftOf(tenant), await available(tenant)]).toEqual([[2], 0])
    await finish(jobId, 1)
    await expireCredit(db, { limit: 100 })
    expect([await leftOf(tenant), await available(tenant)]).toEqual([[0], 0])
    expect((await posted('breakage')) - before).toBe(-4n * IMAGE_MICROS)
  })

  test('at many places at once ends a grant once', async () => {
    const { db } = database
    const tenant = await prepaid()
    await grant(tenant, 3, { kind: 'promo', expiresAt: SOON() })
    await letExpire(tenant)
    const sums = await Promise.all(Array.from({ length: 8 }, () => expireCredit(db, { limit: 9 })))
    expect(sums.reduce((sum, part) => sum + part, 0n)).toBe(3n * IMAGE_MICROS)
    expect(await posted(`promo:${tenant.orgId}`)).toBe(0n)
  })
})

describe('refunds', () => {
  test('give the money back to the credit it came from, make room in the budgets, and keep the line', async () => {
    const { db } = database
    const tenant = await prepaid()
    await grant(tenant, 1, { kind: 'promo', priority: 1 })
    await grant(tenant, 4)
    const jobId = await buy(tenant, 3)
    expect(await leftOf(tenant)).toEqual([0, 2])
    const refund = { orgId: tenant.orgId, jobId, refundId: 'r1' }
    expect(await refundImages(db, { ...refund, indexes: [0, 2] })).toBe(2n * IMAGE_MICROS)
    expect(await leftOf(tenant)).toEqual([1, 3])
    expect(await available(tenant)).toBe(4)
    const [key] = await readBalance(db, tenant)
    expect(key?.spentMicros).toBe(IMAGE_MICROS)
    const [lines] = await db.sql`select count(*) from usage_event where job_id = ${jobId}`
    expect(lines?.count).toBe(3n)
  })

  test('of one picture from many callers, under any names, are one refund', async () => {
    const { db } = database
    const tenant = await createBareTenant(db)
    const jobId = await buy(tenant, 2)
    const parts = await Promise.all(
      Array.from({ length: 10 }, (_, index) =>
        refundImages(db, {
          orgId: tenant.orgId,
          jobId,
          indexes: [0],
          refundId: `r${index % 3}`,
        }),
      ),
    )
    expect(parts.reduce<bigint>((sum, part) => sum + (part ?? 0n), 0n)).toBe(IMAGE_MICROS)
    expect(await posted(`receivable:${tenant.orgId}`)).toBe(IMAGE_MICROS)
  })

  test('of one cause may come one after the other, and each is posted', async () => {
    const { db } = database
    const tenant = await createBareTenant(db)
    const jobId = await buy(tenant, 3)
    const refund = { orgId: tenant.orgId, jobId, refundId: 'ticket-7' }
    expect(await refundImages(db, { ...refund, indexes: [2] })).toBe(IMAGE_MICROS)
    expect(await refundImages(db, { ...refund, indexes: [0, 2] })).toBe(IMAGE_MICROS)
    expect(await refundImages(db, { ...refund, indexes: [0, 2] })).toBe(0n)
    expect(await posted(`receivable:${tenant.orgId}`)).toBe(IMAGE_MICROS)
  })

  test("of another org's job, of an unfinished one and of pictures that are not there give nothing", async () => {
    const { db } = database
    const [tenant, other] = [await createBareTenant(db), await createBareTenant(db)]
    const jobId = await buy(tenant, 1)
    const ask = (orgId: string, job: string, indexes: number[]) =>
      refundImages(db, { orgId, jobId: job, indexes, refundId: 'r' })
    expect(await ask(other.orgId, jobId, [0])).toBeNull()
    expect(await ask(tenant.orgId, await hold(tenant, 1), [0])).toBeNull()
    expect(await ask(tenant.orgId, jobId, [7])).toBe(0n)
  })

  test('expired credit that comes back can be used for another while', async () => {
    const { db } = database
    const tenant = await prepaid()
    await grant(tenant, 1, { expiresAt: SOON() })
    const jobId = await buy(tenant, 1)
    await letExpire(tenant)
    await refundImages(db, { orgId: tenant.orgId, jobId, indexes: [0], refundId: 'late' })
    await expireCredit(db, { limit: 100 })
    expect(await available(tenant)).toBe(1)
  })
})

test('what an org will not pay is written off once, and never more than it owes', async () => {
  const { db } = database
  const tenant = await createBareTenant(db)
  await buy(tenant, 2)
  const debt = { orgId: tenant.orgId, amountMicros: 2n * IMAGE_MICROS, sourceId: tenant.orgId }
  expect(await Promise.all([writeOff(db, debt), writeOff(db, debt)])).toContain(true)
  expect(await posted(`receivable:${tenant.orgId}`)).toBe(0n)
  const other = { ...debt, orgId: (await prepaid()).orgId, sourceId: 'of another org' }
  await expect(writeOff(db, other)).rejects.toThrow('owes 0')
})

test('any mixture of grants, jobs, refunds and expiries made at once leaves books that balance', async () => {
  const { db } = database
  const op = fc.record({
    kind: fc.constantFrom('paid', 'promo', 'buy', 'buy', 'buy', 'refund', 'expire'),
    images: fc.integer({ min: 1, max: 4 }),
    job: fc.nat(9),
  })
  const ops = fc.array(op, { minLength: 15, maxLength: 40 })
  await fc.assert(
    fc.asyncProperty(fc.boolean(), ops, async (isPrepaid, list) => {
      const tenant = isPrepaid ? await prepaid() : await createBareTenant(db)
      if (isPrepaid) await grant(tenant, 6, { expiresAt: SOON() })
      const jobs: string[] = []
      await Promise.all(
        list.map(async ({ kind, images, job }) => {
          switch (kind) {
            case 'paid':
              return isPrepaid && (await grant(tenant, images))
            case 'promo':
              return grant(tenant, images, { kind: 'promo', expiresAt: SOON(), priority: job })
            case 'expire':
              await letExpire(tenant)
              return expireCredit(db, { limit: 50 })
            case 'refund': {
              const jobId = jobs[job % Math.max(1, jobs.length)]
              const refund = { orgId: tenant.orgId, indexes: [0, images], refundId: `r${job}` }
              return jobId && (await refundImages(db, { ...refund, jobId }))
            }
            case 'buy': {
              const result = await reserve(db, tenant, { n: images })
              if (!result.ok) return null
              jobs.push(result.jobId)
              return finish(result.jobId, Math.min(images, job))
            }
          }
        }),
      )
      expect(await checkBooks(db)).toEqual([])
    }),
    { numRuns: 15 },
  )
}, 300_000)
