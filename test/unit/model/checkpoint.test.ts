import { readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

import { afterAll, beforeAll, expect, test } from 'vitest'

import { openCheckpoint } from '../../../gpu-worker/model/checkpoint.ts'
import { openPipeline } from '../../../gpu-worker/pipeline/glm-image.ts'
import { createCheckpointCopies } from '../../support/checkpoints.ts'
import type { CheckpointCopies } from '../../support/checkpoints.ts'

const GOLDEN = new URL('../../fixtures/golden/checkpoint', import.meta.url).pathname

let copies: CheckpointCopies
beforeAll(async () => {
  copies = await createCheckpointCopies()
})
afterAll(() => copies.remove())

async function withChange(file: string, change: (config: Record<string, unknown>) => void) {
  const dir = await copies.copy(GOLDEN)
  const config = JSON.parse(await readFile(join(dir, file), 'utf8')) as Record<string, unknown>
  change(config)
  await writeFile(join(dir, file), JSON.stringify(config))
  return dir
}
const messageOf = (opening: Promise<unknown>) =>
  opening.then(
    () => 'opened',
    (error: Error) => error.message,
  )

test('keys that the published files leave out have the values of the reference', async () => {
  const dir = await copies.copy(GOLDEN)
  for (const file of [
    'transformer/config.json',
    'text_encoder/config.json',
    'scheduler/scheduler_config.json',
  ]) {
    await writeFile(join(dir, file), '{}')
  }
  await writeFile(join(dir, 'vision_language_encoder/config.json'), '{"text_config":{}}')
  await rm(join(dir, 'vision_language_encoder/generation_config.json'))
  const checkpoint = await openCheckpoint(dir)
  expect(checkpoint.autoregressive).toMatchObject({
    hiddenSize: 4096,
    headDim: 128,
    attentionBias: true,
    codebookSize: 16_384,
    rope: { theta: 10_000, partialRotaryFactor: 0.5, section: [8, 12, 12] },
  })
  expect(checkpoint.generation).toEqual({ temperature: 0.9, topP: 0.75, topK: 16_512 })
  expect(checkpoint.transformer).toMatchObject({ innerSize: 4096, layerCount: 30, timeSize: 512 })
  expect(checkpoint.textEncoder).toMatchObject({ modelSize: 1472, headCount: 6, headDim: 64 })
  expect(checkpoint.scheduler).toMatchObject({ baseShift: 0.25, maxShift: 0.75, baseTokens: 256 })
  expect(checkpoint.serving.size).toMatchObject({ default: '1280x1280', minSide: 1024 })
  expect(checkpoint.cellPixels).toBe(32)
})

test.each<[string, string, (config: Record<string, unknown>) => void, RegExp]>([
  [
    'a wrong type',
    'vae/config.json',
    (c) => (c.norm_num_groups = '8'),
    /vae\/config\.json: norm_num_groups: /,
  ],
  ['too few means', 'vae/config.json', (c) => (c.latents_mean = [0]), /latents_mean: must have/],
  [
    'another shift',
    'scheduler/scheduler_config.json',
    (c) => (c.time_shift_type = 'exponential'),
    /time_shift_type: only the linear/,
  ],
  [
    'files that disagree',
    'transformer/config.json',
    (c) => (c.text_embed_dim = 47),
    /text_embed_dim must equal d_model/,
  ],
])('%s is refused with file and field', async (_name, file, change, reason) => {
  expect(await messageOf(openCheckpoint(await withChange(file, change)))).toMatch(reason)
})

test('weights of another shape than the configuration says are refused by name', async () => {
  const dir = await withChange('transformer/config.json', (config) => {
    config.time_embed_dim = 64
  })
  expect(await messageOf(openPipeline(dir))).toMatch(
    /tensor time_condition_embed\.\S+ has shape \[32/,
  )
})

test('a missing layer is refused by name', async () => {
  const dir = await withChange('transformer/config.json', (config) => {
    config.num_layers = 3
  })
  expect(await messageOf(openPipeline(dir))).toMatch(/tensor transformer_blocks\.2\.\S+ is missing/)
})

test('the hash names the model: equal for a copy, another for another configuration', async () => {
  const hashOf = async (dir: string) => (await openCheckpoint(dir)).hash()
  const original = await hashOf(GOLDEN)
  expect(await hashOf(await copies.copy(GOLDEN))).toBe(original)
  const other = await withChange('vae/config.json', (config) => {
    config.latents_mean = Array<number>(16).fill(0)
  })
  expect(await hashOf(other)).not.toBe(original)
})
