import { readFileSync } from 'node:fs'

import { expect, test } from 'vitest'

import { schedulerSchema } from '../../../gpu-worker/model/config.ts'
import { createSchedule } from '../../../gpu-worker/pipeline/flow-match.ts'

/** Row N - 1: numpy.linspace(1000, 1, N + 1)[:-1].astype(numpy.int64), by numpy 2.4.6. */
const EXPECTED = JSON.parse(
  readFileSync('test/fixtures/timesteps.json', 'utf8'),
) as readonly (readonly number[])[]

test('timesteps are those of the reference for every number of steps from 1 to 100', () => {
  const config = schedulerSchema.parse({})
  const rows = EXPECTED.map(
    (_, index) => createSchedule(config, { steps: index + 1, tokenCount: 4096 }).timesteps,
  )
  expect(rows).toHaveLength(100)
  expect(rows).toEqual(EXPECTED)
})
