import fc from 'fast-check'
import { afterAll, beforeAll, test } from 'vitest'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { checkSequence, checkStorm } from '../support/money-check.ts'
import { anyOp } from '../support/money-world.ts'

/** More runs for a long search: BOOKS_RUNS=2000. */
const RUNS = Number(process.env.BOOKS_RUNS ?? 40)

let database: TestDatabase
beforeAll(async () => {
  database = await createTestDatabase({ maxConnections: 24 })
})
afterAll(() => database.close())

test('any sequence of calls gives the answers and the budgets of the plain model, and books that balance', async () => {
  const ops = fc.array(anyOp, { minLength: 20, maxLength: 60 })
  await fc.assert(
    fc.asyncProperty(fc.boolean(), ops, (isPrepaid, list) =>
      checkSequence(database.db, isPrepaid, list),
    ),
    { numRuns: RUNS },
  )
}, 3_600_000)

test('any mixture of calls made at once, every call twice, leaves books that balance', async () => {
  const ops = fc.array(anyOp, { minLength: 40, maxLength: 80 })
  await fc.assert(
    fc.asyncProperty(fc.boolean(), ops, (isPrepaid, list) =>
      checkStorm(database.db, isPrepaid, list),
    ),
    { numRuns: Math.ceil(RUNS / 3), endOnFailure: true },
  )
}, 3_600_000)
