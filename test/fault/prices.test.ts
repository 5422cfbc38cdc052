import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { agreePrice, publishPrice, quotePrice, sizeClassOf } from '../../billing/price.ts'
import type { PriceRequest } from '../../billing/price.ts'
import { reserveJob } from '../../billing/reserve.ts'
import { settleJob } from '../../billing/settle.ts'
import { claimJob } from '../../db/job-claims.ts'
import { checkBooks } from '../support/books.ts'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { createBareTenant, deliver, newJob } from '../support/jobs.ts'
import type { BareTenant } from '../support/jobs.ts'

let database: TestDatabase
beforeAll(async () => {
  database = await createTestDatabase({ maxConnections: 16 })
  const { db } = database
  await db.sql`insert into price_book (id, name, currency) values ('acme', 'Acme', 'USD'), ('tiers', 'Tiers', 'USD')`
  await db.sql`
    insert into sku (id, model, size_class, quality, priority, unit) values
      ('sku_large', 'glm-image', 'large', 'any', 'any', 'image'),
      ('sku_batch', 'glm-image', 'any', 'any', 'batch', 'image'),
      ('sku_large_batch', 'glm-image', 'large', 'any', 'batch', 'image')`
})
afterAll(async () => {
  expect(await checkBooks(database.db)).toEqual([])
  await database.close()
})

const soon = () => new Date(Date.now() + 1000)
const after = (date: Date, ms = 0) => new Date(date.getTime() + ms)

function ask(orgId: string, at: Date, changes: Partial<PriceRequest> = {}) {
  const kind = { model: 'glm-image', width: 1280, height: 1280, quality: 'hd' }
  return quotePrice(database.db, { orgId, at, ...kind, priority: 'standard', ...changes })
}

/** A job at the price that is in force, of which all pictures are delivered. */
async function buy(tenant: BareTenant, n: number, at = new Date()): Promise<bigint> {
  const { db } = database
  const price = await ask(tenant.orgId, at)
  if (!price) throw new Error('not for sale')
  const result = await reserveJob(db, { job: newJob(tenant, { n }), price })
  if (!result.ok) throw new Error(result.reason)
  const { jobId } = result
  await claimJob(db, { jobId, workerId: 'w', leaseSeconds: 60, maxFailedAttempts: 3 })
  for (let idx = 0; idx < n; idx++) await deliver(db, jobId, 1, idx)
  const settled = await settleJob(db, { jobId, attempt: 1, outcome: 'succeeded' })
  if (settled.outcome !== 'settled') throw new Error(settled.outcome)
  return settled.capturedMicros
}

describe('the price book', () => {
  test.each([
    [768, 768, 'small'],
    [1280, 1280, 'medium'],
    [1728, 960, 'medium'],
    [2048, 2048, 'large'],
  ])('%i x %i is %s', (width, height, name) => {
    expect(sizeClassOf(width, height)).toBe(name)
  })

  test('sells the most particular SKU that fits and has a price', async () => {
    const { db } = database
    const { orgId } = await createBareTenant(db)
    const validFrom = soon()
    const book = { bookId: 'default', validFrom }
    expect(await publishPrice(db, { ...book, skuId: 'sku_large', price: 30_000n })).toMatchObject({
      ok: true,
    })
    await publishPrice(db, { ...book, skuId: 'sku_batch', price: 7_500n })
    const at = after(validFrom, 1)
    const large = { width: 2048, height: 2048 }
    const unit = async (changes: Partial<PriceRequest>) =>
      (await ask(orgId, at, changes))?.unitMicros
    expect(await unit({})).toBe(15_000n)
    expect(await unit(large)).toBe(30_000n)
    expect(await unit({ priority: 'batch' })).toBe(7_500n)
    // Both fit and say as much: the priority decides.
    expect(await unit({ ...large, priority: 'batch' })).toBe(7_500n)
    await publishPrice(db, { ...book, skuId: 'sku_large_batch', price: 20_000n })
    expect(await unit({ ...large, priority: 'batch' })).toBe(20_000n)
    expect(await unit({ model: 'other' })).toBeUndefined()
  })

  test('a new price begins at its instant, and the one before ends there', async () => {
    const { db } = database
    const { orgId } = await createBareTenant(db)
    const first = new Date(Date.now() + 10_000_000)
    const second = after(first, 10_000)
    await publishPrice(db, { bookId: 'acme', skuId: 'sku_glm_image', price: 1n, validFrom: first })
    await publishPrice(db, { bookId: 'acme', skuId: 'sku_glm_image', price: 2n, validFrom: second })
    await agreePrice(db, { orgId, bookId: 'acme', discountBp: 0, validFrom: first })
    expect((await ask(orgId, after(first, -1)))?.unitMicros).toBe(15_000n)
    expect((await ask(orgId, first))?.unitMicros).toBe(1n)
    expect((await ask(orgId, after(second, -1)))?.unitMicros).toBe(1n)
    expect((await ask(orgId, second))?.unitMicros).toBe(2n)
  })

  test('of prices published at once for the same time one is taken and the others are told why', async () => {
    const { db } = database
    const validFrom = new Date(Date.now() + 99_000_000)
    const all = await Promise.all(
      Array.from({ length: 8 }, (_, index) =>
        publishPrice(db, {
          bookId: 'tiers',
          skuId: 'sku_glm_image',
          price: BigInt(index),
          validFrom,
        }),
      ),
    )
    expect(all.filter(({ ok }) => ok)).toHaveLength(1)
    expect(all.find(({ ok }) => !ok)).toMatchObject({
      message: expect.stringContaining('another price'),
    })
    // Neither can one be put before it that would have no end.
    const before = { bookId: 'tiers', skuId: 'sku_glm_image', price: 1n, validFrom: soon() }
    expect(await publishPrice(db, before)).toMatchObject({ ok: false })
  })

  test.each([
    ['in the past', { price: 1n, validFrom: new Date(0) }, 'in the past'],
    ['with tiers that fall', { price: tiers([10, 1], [5, 1], [null, 1]) }, 'rising ends'],
    ['with tiers that end', { price: tiers([10, 1]) }, 'open last one'],
    ['with tiers of nothing', { price: [] }, 'rising ends'],
    ['with a negative tier', { price: tiers([null, -1]) }, 'negative'],
  ])('a price %s is refused by name', async (_name, input, words) => {
    const own = { bookId: 'acme', skuId: 'sku_large', validFrom: soon(), ...input }
    expect(await publishPrice(database.db, own)).toMatchObject({
      ok: false,
      message: expect.stringContaining(words),
    })
  })

  test('a price in force cannot be edited, moved or taken away', async () => {
    const { sql } = database.db
    await expect(sql`update price_version set price_micros = 1`).rejects.toThrow('append-only')
    await expect(sql`update price_version set valid_from = now()`).rejects.toThrow('append-only')
    await expect(sql`
      update price_version set valid_to = '2026-02-01' where valid_to is null`).rejects.toThrow(
      'append-only',
    )
    await expect(sql`delete from price_version`).rejects.toThrow('append-only')
  })
})

function tiers(...list: [number | null, number][]) {
  return list.map(([upTo, priceMicros]) => ({
    upTo: upTo === null ? null : BigInt(upTo),
    priceMicros: BigInt(priceMicros),
  }))
}

describe('contracts', () => {
  test('a discount is charged as agreed, and the usage line shows the list price beside it', async () => {
    const { db } = database
    const tenant = await createBareTenant(db)
    await agreePrice(db, { orgId: tenant.orgId, discountBp: 1_250, validFrom: soon() })
    const at = after(soon(), 100)
    expect(await buy(tenant, 2, at)).toBe(2n * 13_125n)
    const lines = await db.sql`
      select list_micros, discount_micros, net_micros from usage_event where org_id = ${tenant.orgId}`
    expect(lines).toHaveLength(2)
    expect(lines[0]).toEqual({ list_micros: 15_000n, discount_micros: 1_875n, net_micros: 13_125n })
  })

  test('tiers count the org month: every image has the price of its own place, and less than held is released', async () => {
    const { db } = database
    const tenant = await createBareTenant(db)
    await db.sql`insert into price_book (id, name, currency) values ('graded', 'Graded', 'USD')`
    const validFrom = soon()
    const price = tiers([3, 15_000], [5, 12_000], [null, 9_000])
    await publishPrice(db, { bookId: 'graded', skuId: 'sku_glm_image', price, validFrom })
    await agreePrice(db, { orgId: tenant.orgId, bookId: 'graded', discountBp: 0, validFrom })
    const at = after(validFrom, 1)
    expect((await ask(tenant.orgId, at))?.unitMicros).toBe(15_000n)
    expect(await buy(tenant, 2, at)).toBe(30_000n)
    expect(await buy(tenant, 4, at)).toBe(15_000n + 12_000n + 12_000n + 9_000n)
    const both = await Promise.all([buy(tenant, 3, at), buy(tenant, 3, at)])
    expect(both).toEqual([27_000n, 27_000n])
    const places = await db.sql`
      select tier_position from usage_event where org_id = ${tenant.orgId} order by tier_position`
    expect(places.map((row) => row.tier_position)).toEqual(
      Array.from({ length: 12 }, (_, index) => BigInt(index + 1)),
    )
  })

  test('the rounded price of the database is that of exact fractions', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.bigInt({ min: 0n, max: 10n ** 12n }),
        fc.bigInt({ min: 1n, max: 10n ** 6n }),
        fc.integer({ min: 0, max: 10_000 }),
        async (price, per, discount) => {
          const [row] = await database.db.sql<{ micros: bigint }[]>`
            select image_price(row('p', 'b', 's', ${price}::bigint, ${per}::bigint, null, now(), null)::price_version,
                               1, ${discount}::int) as micros`
          const top = price * BigInt(10_000 - discount)
          const bottom = per * 10_000n
          // Half up: the whole number next to top / bottom.
          expect(row?.micros).toBe((top + bottom / 2n) / bottom)
        },
      ),
      { numRuns: 200 },
    )
  })
})
