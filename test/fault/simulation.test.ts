import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { BUGS, findSign } from '../simulation/bugs.ts'
import type { Bug } from '../simulation/bugs.ts'
import { createFaultLedger } from '../simulation/fault-ledger.ts'
import { DATABASE_FAULTS } from '../simulation/fault-plan.ts'
import { openWorldServer } from '../simulation/run-worlds.ts'
import type { WorldServer } from '../simulation/run-worlds.ts'
import type { SimulationResult } from '../simulation/simulate.ts'

/** A slice of `npm run faults`, so that the harness works on the day when it is needed. */
const SEED = 20261125
const SOUND = [SEED, SEED + 1]
const SEEDED = ['the whole hold is charged', 'cancel forgets to release']
const MAX_RUNS = 4

const ledger = createFaultLedger()
let server: WorldServer
let sound: Promise<SimulationResult[]>
let caught: Map<string, Promise<string | null>>
// All at the same time: a world mostly waits for what does not come.
beforeAll(async () => {
  server = await openWorldServer()
  sound = Promise.all(SOUND.map((seed) => server.run(seed, null, ledger)))
  const bugs = BUGS.filter(({ name }) => SEEDED.includes(name))
  caught = new Map(bugs.map((bug) => [bug.name, hunt(bug)]))
}, 60_000)
afterAll(() => server.close())

async function hunt(bug: Bug): Promise<string | null> {
  const fired = createFaultLedger()
  for (let run = 0; run < MAX_RUNS; run++) {
    const sign = findSign(bug, (await server.run(SEED + run, bug, fired)).broken)
    if (sign !== null) return sign
  }
  return null
}

test('some hundred faults of every kind lose no charge and double none', async () => {
  const results = await sound
  expect(results.flatMap(({ broken }) => broken)).toEqual([])
  expect(ledger.total).toBeGreaterThan(300)
  const kinds = new Set(ledger.cells().map(([, kind]) => kind))
  expect([...kinds]).toEqual(expect.arrayContaining([...DATABASE_FAULTS]))
}, 300_000)

describe('the same runs find', () => {
  test.each(SEEDED)(
    'that %s',
    async (name) => expect(await caught.get(name)).toMatch(/.+/),
    300_000,
  )
})

test('every seeded bug still fits the functions of the product', async () => {
  for (const bug of BUGS) await server.tryBug(bug)
}, 120_000)
