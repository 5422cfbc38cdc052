import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { afterAll, beforeAll, expect, test } from 'vitest'

import { cardBytes, requireCardMemory } from '../../../gpu-worker/model/card-memory.ts'
import { openCheckpoint } from '../../../gpu-worker/model/checkpoint.ts'
import { requireMemory } from '../../../gpu-worker/model/memory.ts'
import { quantiseWeights } from '../../../gpu-worker/model/quantise.ts'
import { openQuantised } from '../../../gpu-worker/model/quantised.ts'
import { warmFiles } from '../../../gpu-worker/model/warm-read.ts'
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

test('weights that have no room on the card are refused with both sizes before they are read', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'real-size-'))
  await writeRealCheckpoint(dir, join(GOLDEN, 'processor'))
  const checkpoint = await openCheckpoint(dir)
  const free = (gigabytes: number | null) => ({
    readFree: () => Promise.resolve(gigabytes === null ? null : gigabytes * 1e9),
  })
  await expect(requireCardMemory(checkpoint, free(24))).rejects.toMatchObject({
    code: 'model_invalid',
    message: `${dir}: needs 33.5 GB of the card's memory for its weights, 24.0 GB free`,
  })
  await requireCardMemory(checkpoint, free(80))
  await requireCardMemory(checkpoint, free(null))
  await rm(dir, { recursive: true })
})

test('weights are read once from front to back, those of the images left out, or not at all without room', async () => {
  const checkpoint = await openCheckpoint(GOLDEN)
  const seen: [number, number][] = []
  const total = await warmFiles(checkpoint, (done, all) => void seen.push([done, all]))
  expect(total).toBe(await cardBytes(checkpoint))
  expect(seen[0]).toEqual([0, total])
  expect(seen.at(-1)).toEqual([total, total])
  expect(seen.map(([done]) => done)).toEqual(seen.map(([done]) => done).toSorted((a, b) => a - b))
  expect(await warmFiles(checkpoint, () => {}, { availableBytes: total - 1 })).toBe(0)
})

test('8-bit weights count in place of those that they stand in for: on the card, and when they are read', async () => {
  const checkpoint = await openCheckpoint(await copies.convert(GOLDEN, 'BF16'))
  const stored = await cardBytes(checkpoint)
  await quantiseWeights(checkpoint, { blockSize: 32 })
  const quantised = await openQuantised(checkpoint)
  const { tensors } = quantised
  const own = tensors.names().reduce((sum, name) => sum + tensors.get(name).length, 0)
  const written = await checkpoint.tensors('vision_language_encoder')
  const replaced = written
    .names()
    .filter((name) => tensors.has(`${name}.values`))
    .reduce((sum, name) => sum + written.get(name).length, 0)
  expect(replaced).toBeGreaterThan(own)
  expect(await cardBytes(checkpoint, quantised)).toBe(stored - replaced + own)
  const read = await warmFiles(checkpoint, () => {})
  expect(await warmFiles(checkpoint, () => {}, { quantised })).toBe(read - replaced + own)
})
