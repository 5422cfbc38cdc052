import { afterAll, beforeAll, expect, test } from 'vitest'

import { openCheckpoint } from '../../../gpu-worker/model/checkpoint.ts'
import { requireMemory } from '../../../gpu-worker/model/memory.ts'
import { createCheckpointCopies } from '../../support/checkpoints.ts'
import type { CheckpointCopies } from '../../support/checkpoints.ts'

const GOLDEN = 'test/fixtures/golden/checkpoint'

let copies: CheckpointCopies
beforeAll(async () => {
  copies = await createCheckpointCopies()
})
afterAll(() => copies.remove())

test('half precision weights that would not fit when widened are refused with both sizes, for good', async () => {
  const checkpoint = await openCheckpoint(await copies.convert(GOLDEN, 'BF16'))
  await expect(requireMemory(checkpoint, 2 ** 20)).rejects.toMatchObject({
    code: 'model_invalid',
    retryable: false,
    message: expect.stringMatching(/: needs \d+\.\d GB of memory .*, 0\.0 GB available$/),
  })
  await requireMemory(checkpoint, 2 ** 30)
  await requireMemory(checkpoint)
})

test('weights in float32 stay in their files and need no room', async () => {
  await requireMemory(await openCheckpoint(GOLDEN), 0)
})
