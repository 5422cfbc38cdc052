import { readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

import { afterAll, beforeAll, expect, test } from 'vitest'

import { openCheckpoint } from '../../../gpu-worker/model/checkpoint.ts'
import { readEditingConfig, visionSchema } from '../../../gpu-worker/model/editing.ts'
import { openLatentEncoder } from '../../../gpu-worker/pipeline/source-encoder.ts'
import { createCheckpointCopies } from '../../support/checkpoints.ts'
import type { CheckpointCopies } from '../../support/checkpoints.ts'
import { PUBLISHED_CONFIGS } from '../../support/published.ts'
import { toFloatBytes, writeSafetensors } from '../../support/safetensors.ts'

const GOLDEN = fileURLToPath(new URL('../../fixtures/golden/checkpoint', import.meta.url))
const WRITER = 'vision_language_encoder/config.json'
const PROCESSOR = 'processor/processor_config.json'
const PREPROCESSOR = 'processor/preprocessor_config.json'

let copies: CheckpointCopies
beforeAll(async () => {
  copies = await createCheckpointCopies()
})
afterAll(() => copies.remove())

type Json = Record<string, Record<string, unknown>>

async function withChange(file: string, change: (config: Json) => void): Promise<string> {
  const dir = await copies.copy(GOLDEN)
  const config = JSON.parse(await readFile(join(dir, file), 'utf8')) as Json
  change(config)
  await writeFile(join(dir, file), JSON.stringify(config))
  return dir
}
const readIn = async (dir: string) => readEditingConfig(await openCheckpoint(dir))

test('keys that the published files leave out have the values of the reference', async () => {
  const published = visionSchema.parse(PUBLISHED_CONFIGS[WRITER])
  expect(visionSchema.parse({})).toEqual(published)
  expect(published).toMatchObject({ positionSide: 128, codeSize: 2048, patchSize: 16 })
  const dir = await copies.copy(GOLDEN)
  await rm(join(dir, PROCESSOR))
  const { preparation } = await readIn(dir)
  expect(preparation).toEqual({
    minSide: 512,
    maxSide: 2048,
    patchSize: 16,
    rescaleFactor: 1 / 255,
    mean: [0.5, 0.5, 0.5],
    deviation: [0.5, 0.5, 0.5],
  })
})

test('the limits are found in each of their places, the file of the whole processor first', async () => {
  const both = await copies.copy(GOLDEN)
  await writeFile(join(both, PREPROCESSOR), JSON.stringify({ min_pixels: 1, max_pixels: 4 }))
  expect((await readIn(both)).preparation).toMatchObject({ minSide: 64, maxSide: 256 })

  const older = await copies.copy(GOLDEN)
  await rm(join(older, PROCESSOR))
  const size = { shortest_edge: 100, longest_edge: 400 }
  await writeFile(join(older, PREPROCESSOR), JSON.stringify({ size, max_pixels: 900 }))
  expect((await readIn(older)).preparation).toMatchObject({ minSide: 10, maxSide: 30 })
})

test.each<[string, string, (config: Json) => void, string]>([
  [
    'another activation',
    WRITER,
    (c) => (c.vision_config!.hidden_act = 'silu'),
    'vision_config.hidden_act: only gelu is supported',
  ],
  [
    'heads that do not divide the width',
    WRITER,
    (c) => (c.vision_config!.num_heads = 5),
    'vision_config.hidden_size: must be a multiple of num_heads = 5',
  ],
  [
    'a patch that is not half a token',
    PROCESSOR,
    (c) => (c.image_processor!.patch_size = 8),
    'vision_config.patch_size must equal patch_size of the processor: 8',
  ],
  [
    'another kernel',
    PROCESSOR,
    (c) => (c.image_processor!.resample = 2),
    'image_processor.resample: only 3 is supported',
  ],
  [
    'cells that are merged',
    PROCESSOR,
    (c) => (c.image_processor!.merge_size = 2),
    'image_processor.merge_size: only 1 is supported',
  ],
])('%s is refused by file and key, and only when an image comes', async (...row) => {
  const [, file, change, reason] = row
  const dir = await withChange(file, change)
  await expect(readIn(dir)).rejects.toMatchObject({
    code: 'model_invalid',
    message: expect.stringContaining(reason),
  })
})

test.each([
  ['encoder.mid_block.attentions.0.to_q.weight', 'mid_block_add_attention'],
  ['encoder.down_blocks.2.attentions.0.to_q.weight', 'down_block_types'],
  ['quant_conv.weight', 'use_quant_conv'],
])('an encoder with %s is refused, whatever its configuration says', async (tensor, key) => {
  const dir = await copies.copy(GOLDEN)
  const bytes = toFloatBytes(Float32Array.of(1), 'F32')
  await writeSafetensors(join(dir, 'vae/more.safetensors'), [
    { name: tensor, dtype: 'F32', shape: [1], bytes },
  ])
  const opening = openLatentEncoder(await openCheckpoint(dir), { compute: 'float32', threads: 1 })
  await expect(opening).rejects.toThrow(
    `tensor ${tensor} belongs to ${key} of vae/config.json, which is not supported`,
  )
})
