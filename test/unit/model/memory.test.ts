import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { afterAll, beforeAll, expect, test } from 'vitest'

import { openCheckpoint } from '../../../gpu-worker/model/checkpoint.ts'
import { requireMemory } from '../../../gpu-worker/model/memory.ts'
import { createCheckpointCopies } from '../../support/checkpoints.ts'
import type { CheckpointCopies } from '../../support/checkpoints.ts'
import { writeRealCheckpoint } from '../../support/real-checkpoint.ts'

const GOLDEN = 'test/fixtures/golden/checkpoint'

let copies: CheckpointCopies
beforeAll(async () => {
  copies = await createCheckpointCopies()
})
afterAll(() => copies.remove())

test('half precision weights that would not fit when widened are refused with both sizes, for good', async () => {
  const checkpoint = await openCheckpoint(await copies.convert(GOLDEN, 'BF16'))
  await expect(requireMemory(checkpoint, { availableBytes: 2 ** 20 })).rejects.toMatchObject({
    code: 'model_invalid',
    retryable: false,
    message: expect.stringMatching(/: needs \d+\.\d GB of memory .*, 0\.0 GB available$/),
  })
  await requireMemory(checkpoint, { availableBytes: 2 ** 30 })
  await requireMemory(checkpoint)
})

test('the published checkpoint needs 61.5 GB on a processor, and more for images only with the first', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'real-size-'))
  await writeRealCheckpoint(dir, join(GOLDEN, 'processor'))
  const checkpoint = await openCheckpoint(dir)
  await expect(requireMemory(checkpoint, { availableBytes: 24e9 })).rejects.toThrow(
    `${dir}: needs 61.5 GB of memory for its weights in float32, 24.0 GB available`,
  )
  await expect(requireMemory(checkpoint, { part: 'images', availableBytes: 1e9 })).rejects.toThrow(
    `${dir}: needs 5.4 GB of memory for its weights for reading images in float32, 1.0 GB available`,
  )
  await rm(dir, { recursive: true })
})

test('weights in float32 stay in their files and need no room', async () => {
  await requireMemory(await openCheckpoint(GOLDEN), { availableBytes: 0 })
})
