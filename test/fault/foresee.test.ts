import fc from 'fast-check'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { foreseeRefusal } from '../../billing/foresee.ts'
import { checkBooks } from '../support/books.ts'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { IMAGE_MICROS, createBareTenant, reserve } from '../support/jobs.ts'

let database: TestDatabase
beforeAll(async () => {
  database = await createTestDatabase()
})
afterAll(async () => {
  expect(await checkBooks(database.db)).toEqual([])
  await database.close()
})

/** Limits of a level, in images: few enough that three jobs of up to three images often pass one of them. */
const micros = fc.integer({ min: 0, max: 8 }).map((count) => BigInt(count) * IMAGE_MICROS)
const limits = fc.record(
  {
    creditMicros: micros,
    monthLimitMicros: micros,
    dayLimitMicros: micros,
    maxInflight: fc.integer({ min: 0, max: 3 }),
  },
  { requiredKeys: [] },
)

test('whatever the limits and what lies on them, the look ahead says what the reservation then says', async () => {
  const { db } = database
  const counts = fc.array(fc.integer({ min: 1, max: 3 }), { minLength: 1, maxLength: 3 })
  await fc.assert(
    fc.asyncProperty(limits, limits, limits, counts, async (org, team, key, orders) => {
      const tenant = await createBareTenant(db, { org, team, key })
      for (const n of orders) {
        const foreseen = await foreseeRefusal(db, {
          ...tenant,
          amountMicros: BigInt(n) * IMAGE_MICROS,
        })
        const reserved = await reserve(db, tenant, { n })
        expect(foreseen).toEqual(reserved.ok ? null : reserved)
      }
    }),
    { numRuns: 60 },
  )
})

test('a frozen org is foreseen, and the look holds nothing', async () => {
  const { db } = database
  const tenant = await createBareTenant(db)
  await db.sql`
    update org set frozen_at = now(), frozen_reason = 'dispute' where id = ${tenant.orgId}`
  const refusal = await foreseeRefusal(db, { ...tenant, amountMicros: IMAGE_MICROS })
  expect(refusal).toEqual({ ok: false, reason: 'org_frozen' })
  const [row] =
    await db.sql`select held_micros::int as held from budget where scope_id = ${tenant.orgId}`
  expect(row).toEqual({ held: 0 })
})
