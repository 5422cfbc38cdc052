import { readdir, readFile, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openCheckpoint } from '../../../gpu-worker/model/checkpoint.ts'
import { quantiseRows, quantiseWeights } from '../../../gpu-worker/model/quantise.ts'
import { BLOCK_SIZES, openQuantised, quantisedPath } from '../../../gpu-worker/model/quantised.ts'
import type { QuantisedWeights } from '../../../gpu-worker/model/quantised.ts'
import { openTensorFile } from '../../../gpu-worker/model/safetensors.ts'
import { follow } from '../../../gpu-worker/parity/autoregressive.ts'
import { openPipeline } from '../../../gpu-worker/pipeline/glm-image.ts'
import { planPositions } from '../../../gpu-worker/pipeline/positions.ts'
import { BACKENDS } from '../../../gpu-worker/pipeline/session.ts'
import { openVisualTokenWriter } from '../../../gpu-worker/pipeline/visual-tokens.ts'
import { createCheckpointCopies } from '../../support/checkpoints.ts'
import type { CheckpointCopies } from '../../support/checkpoints.ts'

const GOLDEN = 'test/fixtures/golden/checkpoint'
const MATRIX = 'model.language_model.layers.0.mlp.down_proj.weight'

let copies: CheckpointCopies
let dir: string
beforeAll(async () => {
  copies = await createCheckpointCopies()
  dir = await copies.copy(GOLDEN)
})
afterAll(() => copies.remove())

test('every number is off by half a step of its block at most, the largest not at all', () => {
  const columns = 70
  const numbers = Float32Array.from({ length: 3 * columns }, (_, index) => Math.sin(index ** 2))
  numbers.fill(0, columns, columns + 32)
  const { values, scales } = quantiseRows(numbers, { columns, blockSize: 32 })
  expect(scales).toHaveLength(3 * 3)
  expect(scales[3]).toBe(0)
  for (const [index, number] of numbers.entries()) {
    const row = Math.floor(index / columns)
    const column = index % columns
    const block = row * 3 + Math.floor(column / 32)
    const scale = scales[block]!
    const got = (values[block * 32 + (column % 32)]! - 128) * scale
    expect(Math.abs(got - number)).toBeLessThanOrEqual(scale * 0.50001)
    if (Math.abs(number) === scale * 127) expect(got).toBeCloseTo(number, 6)
  }
  // What is missing to a whole block is 0.
  expect(Array.from(values.subarray(2 * 32 + 6, 3 * 32))).toEqual(Array(26).fill(128))
})

test('the file is the same however few rows are held at a time, and there is nothing beside it', async () => {
  const checkpoint = await openCheckpoint(dir)
  const seen: number[] = []
  const { path, tensors, bytes } = await quantiseWeights(checkpoint, {
    blockSize: 32,
    onProgress: (done, total) => void seen.push(done / total),
  })
  expect(seen.at(-1)).toBe(1)
  expect(tensors).toBe(6 * checkpoint.autoregressive.layerCount)
  const whole = await readFile(path)
  expect(whole).toHaveLength(bytes)
  await quantiseWeights(checkpoint, { blockSize: 32, slab: 1 })
  expect(await readFile(path)).toEqual(whole)
  expect(await readdir(dirname(path))).toEqual(['vision_language_encoder.safetensors'])
})

test('ended in the middle, it leaves the file that was there and no other', async () => {
  const checkpoint = await openCheckpoint(dir)
  const { path } = await quantiseWeights(checkpoint, { blockSize: 64 })
  const before = await readFile(path)
  const controller = new AbortController()
  const stopped = quantiseWeights(checkpoint, {
    blockSize: 32,
    signal: controller.signal,
    onProgress: () => controller.abort(new Error('enough')),
  })
  await expect(stopped).rejects.toThrow('enough')
  expect(await readFile(path)).toEqual(before)
  expect(await readdir(dirname(path))).toEqual(['vision_language_encoder.safetensors'])
})

describe('a file that does not belong to the checkpoint is refused, with the cure', () => {
  const cure = 'npm run model:quantise -- --model'

  test('none at all', async () => {
    const opening = openQuantised(await openCheckpoint(await copies.copy(GOLDEN)))
    await expect(opening).rejects.toThrow(/int8\/vision_language_encoder\.safetensors: .*missing/)
    await expect(opening).rejects.toThrow(cure)
  })

  test('one of other weights', async () => {
    const own = await copies.copy(GOLDEN)
    await quantiseWeights(await openCheckpoint(own), { blockSize: 32 })
    await openQuantised(await openCheckpoint(own))
    const file = join(own, 'vision_language_encoder', 'model.safetensors')
    const bytes = await readFile(file)
    const { offset } = (await openTensorFile(file)).get(MATRIX)
    bytes.writeFloatLE(bytes.readFloatLE(offset) + 1, offset)
    await writeFile(file, bytes)
    const opening = openQuantised(await openCheckpoint(own))
    await expect(opening).rejects.toThrow('made from other weights than the checkpoint has')
    await expect(opening).rejects.toThrow(cure)
    const pipeline = openPipeline(own, { threads: 1, arWeights: 'int8' })
    await expect(pipeline).rejects.toMatchObject({ code: 'model_invalid' })
  })

  test('one of another kind', async () => {
    const own = await copies.copy(GOLDEN)
    const { path } = await quantiseWeights(await openCheckpoint(own), { blockSize: 32 })
    const bytes = await readFile(path)
    await writeFile(path, bytes.toString('latin1').replace('int8-1', 'int8-9'), 'latin1')
    await expect(openQuantised(await openCheckpoint(own))).rejects.toThrow(
      '__metadata__.format must be glyphpress-int8-1',
    )
  })
})

const IDS = Array.from({ length: 24 }, (_, index) => 300 + 7 * index)
const GRIDS = { large: { rows: 8, columns: 12 }, preview: null }
const STEPS = 95

/** Logits behind a prompt and each of its likeliest continuation, by rows. */
async function readLogits(
  choice: 'likeliest' | 'forced',
  forced: number[],
  quantised?: QuantisedWeights,
  backend: 'node' | 'capi' = 'node',
) {
  const checkpoint = await openCheckpoint(dir)
  const options = { compute: 'float32', threads: 1, backend } as const
  const positions = planPositions(IDS.length, GRIDS)
  const { tokens, logits } = await follow(
    { checkpoint, options, ...(quantised && { quantised }) },
    { ids: IDS, positions, choice, forced },
  )
  const size = checkpoint.autoregressive.visionVocabularySize
  const rows = Array.from({ length: STEPS }, (_, row) =>
    Array.from(logits.subarray(row * size, (row + 1) * size)),
  )
  return { tokens: tokens.slice(0, STEPS), rows }
}

const bestOf = (row: readonly number[]) => row.indexOf(Math.max(...row))
const sizeOf = (values: readonly number[]) => Math.hypot(...values) / Math.sqrt(values.length)

describe.each(BACKENDS)('the writer in 8 bits on %s', (backend) => {
  test.each(BLOCK_SIZES)(
    'in blocks of %d moves logits by less than 8 percent of their spread, and keeps 8 of 10 likeliest tokens',
    async (blockSize) => {
      const { tokens } = await readLogits('likeliest', Array(STEPS).fill(0))
      const exact = await readLogits('forced', tokens)
      await quantiseWeights(await openCheckpoint(dir), { blockSize })
      const quantised = await openQuantised(await openCheckpoint(dir))
      expect(quantised.blockSize).toBe(blockSize)
      const rounded = await readLogits('forced', tokens, quantised, backend)
      const differences = exact.rows.flatMap((row, place) =>
        row.map((value, index) => value - rounded.rows[place]![index]!),
      )
      const error = sizeOf(differences) / sizeOf(exact.rows.flat())
      const same = exact.rows.filter((row, place) => bestOf(row) === bestOf(rounded.rows[place]!))
      expect(error).toBeGreaterThan(0.001)
      expect(error).toBeLessThan(0.08)
      expect(same.length / STEPS).toBeGreaterThan(0.8)
    },
  )

  test('writes each picture as it does alone', async () => {
    await quantiseWeights(await openCheckpoint(dir), { blockSize: 32 })
    const checkpoint = await openCheckpoint(dir)
    const options = {
      compute: 'float32',
      threads: 1,
      backend,
      batch: 3,
      arWeights: 'int8',
    } as const
    const writer = await openVisualTokenWriter(checkpoint, options)
    const requests = [1, 2, 3].map((seed) => ({
      prompt: `A sign '${'OPEN '.repeat(seed)}'`,
      width: 64 + 32 * seed,
      height: 96,
      seed,
    }))
    const alone: string[] = []
    for (const request of requests) {
      alone.push((await writer.write(request, { onChunk: async () => {} })).written.join())
    }
    const layouts = requests.map((request) => writer.plan(request))
    for (;;) {
      const active = layouts.filter(({ written, total }) => written.length < total)
      if (active.length === 0) break
      await writer.advance(active)
    }
    expect(layouts.map(({ written }) => written.join())).toEqual(alone)
    await writer.close()
    const plain = await openVisualTokenWriter(checkpoint, { compute: 'float32', threads: 1 })
    const stored = await plain.write(requests[0]!, { onChunk: async () => {} })
    expect(stored.written.join()).not.toBe(alone[0])
    await plain.close()
  })
})

test('a pipeline in 8 bits says so of itself', async () => {
  await quantiseWeights(await openCheckpoint(dir), { blockSize: 32 })
  const pipeline = await openPipeline(dir, { threads: 1, arWeights: 'int8' })
  expect(pipeline.info.arWeights).toBe('int8')
  await pipeline.close()
  expect(quantisedPath(dir)).toBe(join(dir, 'int8', 'vision_language_encoder.safetensors'))
})
