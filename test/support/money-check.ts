import { expect } from 'vitest'
import type { Db } from '../../db/client.ts'
import { checkBooks } from './books.ts'
import { applyOp, createModel } from './money-model.ts'
import type { MoneyModel } from './money-model.ts'
import { createWorld, runOp } from './money-world.ts'
import type { Op, World } from './money-world.ts'

/** One call after the other: each answer and all budgets are the model's; at the end the books balance. */
export async function checkSequence(db: Db, isPrepaid: boolean, ops: Op[]): Promise<void> {
  const world = await createWorld(db, isPrepaid)
  const model = createModel(world)
  for (const op of [...(isPrepaid ? [OPENING] : []), ...ops]) {
    const expected = applyOp(model, op)
    const answer = await runOp(world, op)
    if (expected === null) expect(answer).toBeNull()
    else expect(expected.map((one) => expect.objectContaining(one))).toContainEqual(answer)
    await compareBudgets(world, model)
  }
  expect(await checkBooks(db)).toEqual([])
}

/** Every call twice and all at once on a world with nine jobs: no call breaks and the books balance. */
export async function checkStorm(db: Db, isPrepaid: boolean, ops: Op[]): Promise<void> {
  const world = await createWorld(db, isPrepaid)
  if (isPrepaid) await runOp(world, { ...OPENING, images: 60 })
  for (let key = 0; key < 9; key++) {
    await runOp(world, { op: 'reserve', key, n: 3, order: null, body: 'a' })
  }
  const calls = await Promise.allSettled([...ops, ...ops].map((op) => runOp(world, op)))
  for (const call of calls) if (call.status === 'rejected') throw call.reason
  expect(await checkBooks(db)).toEqual([])
}

/** A prepaid org starts with room for some images, so that there is something to go wrong. */
const OPENING = { op: 'grant', images: 20, source: 9 } as const

/** Every budget row of the world beside what the model says; month rows where a monthly limit is set. */
async function compareBudgets(world: World, model: MoneyModel): Promise<void> {
  const ids = world.levels.map(({ scopeId }) => scopeId)
  const rows = await world.db.sql`
    select scope_id, kind, limit_micros, month_limit_micros, held_micros, spent_micros, inflight, max_inflight
      from budget where scope_id = any(${ids})`
  for (const [index, level] of model.levels.entries()) {
    const { held, spent } = level
    const mine = rows.filter((row) => row.scope_id === ids[index])
    expect(mine.find((row) => row.kind === 'balance')).toMatchObject({
      limit_micros: level.limit,
      month_limit_micros: level.monthLimit,
      held_micros: held,
      spent_micros: spent,
      inflight: level.inflight,
      max_inflight: level.maxInflight,
    })
    const month = mine.find((row) => row.kind === 'month')
    if (month && level.monthLimit !== null) {
      expect(month).toMatchObject({
        limit_micros: level.monthLimit,
        held_micros: held,
        spent_micros: spent,
      })
    }
  }
}
