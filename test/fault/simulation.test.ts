import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { BUGS } from '../simulation/bugs.ts'
import { createFaultLedger } from '../simulation/fault-ledger.ts'
import { DATABASE_FAULTS } from '../simulation/fault-plan.ts'
import { openWorldServer, runWorlds } from '../simulation/run-worlds.ts'
import type { WorldServer } from '../simulation/run-worlds.ts'

/** A slice of `npm run faults`, so that the harness works on the day when it is needed. */
const SEED = 20261125

let server: WorldServer
beforeAll(async () => {
  server = await openWorldServer()
})
afterAll(() => server.close())

test('some hundred faults of every kind lose no charge and double none', async () => {
  const ledger = createFaultLedger()
  const results = await Promise.all([SEED, SEED + 1].map((seed) => server.run(seed, null, ledger)))
  expect(results.flatMap(({ broken }) => broken)).toEqual([])
  expect(ledger.total).toBeGreaterThan(300)
  const kinds = new Set(ledger.cells().map(([, kind]) => kind))
  expect([...kinds]).toEqual(expect.arrayContaining([...DATABASE_FAULTS]))
}, 240_000)

describe('the same runs find', () => {
  const names = ['the whole hold is charged', 'cancel forgets to release']
  test.each(BUGS.filter(({ name }) => names.includes(name)).map((bug) => [bug.name, bug] as const))(
    'that %s',
    async (_name, bug) => {
      const { failures } = await runWorlds(server, {
        firstSeed: SEED,
        maxRuns: 3,
        maxFaults: Infinity,
        maxMinutes: 3,
        parallel: 1,
        bug,
        isStopping: true,
      })
      expect(failures).not.toEqual([])
    },
    240_000,
  )
})
