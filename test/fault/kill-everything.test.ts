import { expect, test } from 'vitest'
import { runKills } from '../simulation/process-kills.ts'

/** A slice of `npm run faults -- --kill 200`: it has to find nothing on the day when it is needed, too. */
const KILLS = 10
const SEED = Number(process.env.KILL_SEED ?? 20261130)

test(`whatever is killed, no job is lost, and each picture is stored and charged once (seed ${SEED})`, async () => {
  const { ledger, orders, images, failures } = await runKills({ kills: KILLS, seed: SEED })
  expect(failures.flatMap(({ broken }) => broken)).toEqual([])
  expect(ledger.total).toBe(KILLS)
  expect(orders).toBeGreaterThan(0)
  expect(images).toBeGreaterThanOrEqual(orders)
}, 300_000)
