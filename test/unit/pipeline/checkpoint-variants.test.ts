import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

import { afterAll, beforeAll, expect, test } from 'vitest'

import { openPipeline } from '../../../gpu-worker/pipeline/glm-image.ts'
import { createCheckpointCopies } from '../../support/checkpoints.ts'
import type { CheckpointCopies } from '../../support/checkpoints.ts'

const GOLDEN = fileURLToPath(new URL('../../fixtures/golden/checkpoint', import.meta.url))

/** Small pictures are enough here. */
const SERVING = {
  size: {
    default: '64x96',
    recommended: ['64x96'],
    min_side: 64,
    max_side: 128,
    multiple_of: 32,
    max_pixels: 16_384,
  },
}

let copies: CheckpointCopies
let source: string
beforeAll(async () => {
  copies = await createCheckpointCopies()
  source = await copies.copy(GOLDEN)
  await writeFile(join(source, 'serving.json'), JSON.stringify(SERVING))
})
afterAll(() => copies.remove())

async function hashOf(modelDir: string): Promise<string> {
  const pipeline = await openPipeline(modelDir, { threads: 1 })
  const request = { prompt: "A sign 'Open'", width: 64, height: 96, seed: 3, steps: 3 }
  try {
    return (await pipeline.generate({ ...request, format: 'png' }, {})).sha256
  } finally {
    await pipeline.close()
  }
}

test.each(['BF16', 'F16'] as const)(
  'weights stored as %s give the same picture as their float32 values',
  async (dtype) => {
    const stored = await copies.convert(source, dtype)
    const widened = await copies.convert(stored, 'F32')
    expect(await hashOf(stored)).toBe(await hashOf(widened))
  },
)

test.each([
  ['tokens', 'vision_language_encoder', 'model.language_model.norm.weight', NaN],
  ['glyph', 'text_encoder', 'encoder.final_layer_norm.weight', Infinity],
  ['denoise', 'transformer', 'proj_out.bias', NaN],
  ['denoise', 'transformer', 'norm_out.linear.bias', Infinity],
  ['decode', 'vae', 'decoder.conv_out.bias', NaN],
  ['decode', 'vae', 'decoder.conv_out.bias', -Infinity],
])(
  'numbers that are not finite never become a picture: stage %s, %s %s = %d',
  async (stage, folder, tensor, value) => {
    const broken = await copies.fill(source, folder, tensor, value)
    await expect(hashOf(broken)).rejects.toMatchObject({
      code: 'engine_failed',
      message: `the model gave numbers that are not finite in stage ${stage}`,
    })
  },
)

test('shards behind links, with data at any byte offset, give the picture of the single files', async () => {
  expect(await hashOf(await copies.shard(source))).toBe(await hashOf(source))
})
