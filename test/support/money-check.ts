import { expect } from 'vitest'
import type { Db } from '../../db/client.ts'
import { checkBooks } from './books.ts'
import { LIMIT_KINDS, applyOp, createModel } from './money-model.ts'
import type { MoneyModel } from './money-model.ts'
import { createWorld, runOp } from './money-world.ts'
import type { Op, World } from './money-world.ts'

/** One call after the other: each answer and all budgets are the model's; at the end the books balance. */
export async function checkSequence(db: Db, isPrepaid: boolean, ops: Op[]): Promise<void> {
  const today = utcDay()
  try {
    await runSequence(db, isPrepaid, ops)
  } catch (error) {
    // The model's days have no end.
    if (utcDay() === today) throw error
  }
}

function utcDay(): string {
  return new Date().toISOString().slice(0, 10)
}

async function runSequence(db: Db, isPrepaid: boolean, ops: Op[]): Promise<void> {
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

/** Every budget row of the world beside what the model says; days and months where they are limited. */
async function compareBudgets(world: World, model: MoneyModel): Promise<void> {
  const ids = world.levels.map(({ scopeId }) => scopeId)
  const rows = await world.db.sql`
    select scope_id, kind, limit_micros, limit_next_micros, day_limit_micros, month_limit_micros, held_micros,
           spent_micros, inflight, max_inflight, soft_bp,
           array(select bp from budget_alert a where a.budget_id = budget.id order by bp) as told
      from budget where scope_id = any(${ids})`
  for (const [index, level] of model.levels.entries()) {
    const { held, spent, limits } = level
    for (const kind of LIMIT_KINDS) {
      const { wish, limit, told } = limits[kind]
      if (kind !== 'balance' && wish === null) continue
      const row = rows.find((one) => one.scope_id === ids[index] && one.kind === kind)
      expect(row).toMatchObject({
        limit_micros: limit,
        limit_next_micros: limit === wish ? null : wish,
        held_micros: held,
        spent_micros: spent,
        soft_bp: level.softBp,
        told: [...told].toSorted((a, b) => a - b),
      })
      if (kind !== 'balance') continue
      expect(row).toMatchObject({
        day_limit_micros: limits.day.wish,
        month_limit_micros: limits.month.wish,
        inflight: level.inflight,
        max_inflight: level.maxInflight,
      })
    }
  }
}
