import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { openPipeline } from '../../../gpu-worker/pipeline/glm-image.ts'
import type { Pipeline } from '../../../gpu-worker/pipeline/glm-image.ts'
import type { ImageRequest, Progress } from '../../../gpu-worker/pipeline/image-request.ts'
import { createCheckpointCopies } from '../../support/checkpoints.ts'
import type { CheckpointCopies } from '../../support/checkpoints.ts'
import { drawPicture } from '../../support/pictures.ts'

const GOLDEN = fileURLToPath(new URL('../../fixtures/golden/checkpoint', import.meta.url))

const SERVING = {
  size: {
    default: '64x96',
    recommended: ['64x96'],
    min_side: 64,
    max_side: 256,
    multiple_of: 32,
    max_pixels: 65_536,
  },
  images: { max_count: 3, max_pixels: 80_000 },
}

let copies: CheckpointCopies
let source: string
let first: Uint8Array
let second: Uint8Array
beforeAll(async () => {
  copies = await createCheckpointCopies()
  source = await copies.copy(GOLDEN)
  await writeFile(join(source, 'serving.json'), JSON.stringify(SERVING))
  first = await drawPicture(1, { width: 96, height: 64 })
  second = await drawPicture(2, { width: 70, height: 90 })
})
afterAll(() => copies.remove())

const editOf = (...images: Uint8Array[]): ImageRequest => ({
  prompt: "Write 'Sale' on it",
  images,
  seed: 3,
  steps: 2,
  format: 'png',
})

async function withPipeline<Result>(
  modelDir: string,
  use: (pipeline: Pipeline) => Promise<Result>,
): Promise<Result> {
  const pipeline = await openPipeline(modelDir, { threads: 1 })
  try {
    return await use(pipeline)
  } finally {
    await pipeline.close()
  }
}
const hashOf = (modelDir: string, request: ImageRequest) =>
  withPipeline(modelDir, async (pipeline) => (await pipeline.generate(request, {})).sha256)

describe('an edit', () => {
  let pipeline: Pipeline
  beforeAll(async () => {
    pipeline = await openPipeline(source, { threads: 1 })
  })
  afterAll(() => pipeline.close())
  const make = async (request: ImageRequest) => (await pipeline.generate(request, {})).sha256
  const refusalOf = async (request: ImageRequest) =>
    pipeline.generate(request, {}).then(
      () => 'a picture',
      (error: unknown) => error,
    )

  test('gives the same bytes for the same images, others for others, another order or none', async () => {
    const size = { width: 64, height: 96 }
    const made = await make({ ...editOf(first, second), ...size })
    expect(await make({ ...editOf(first, second), ...size })).toBe(made)
    const { images: _, ...withoutImages } = { ...editOf(), ...size }
    const others = [
      await make({ ...editOf(second, first), ...size }),
      await make({ ...editOf(first), ...size }),
      await make({ ...editOf(first, first), ...size }),
      await make({ ...editOf(first, second), ...size, seed: 4 }),
      await make(withoutImages),
    ]
    expect(new Set([made, ...others]).size).toBe(6)
    expect(await make({ ...editOf(), ...size })).toBe(others.at(-1))
  })

  test('does not depend on the way in which the same pixels are stored', async () => {
    const { default: sharp } = await import('sharp')
    const lossless = await sharp(first).webp({ lossless: true }).toBuffer()
    expect(await make(editOf(lossless))).toBe(await make(editOf(first)))
  })

  test.each([
    ['on the grid', 96, 64, 96, 64],
    ['off the grid', 70, 90, 64, 96],
    ['below the least side', 20, 30, 64, 96],
    ['above the largest side', 900, 600, 256, 160],
    ['too wide for the area', 400, 400, 256, 256],
  ])(
    'is as large as its first image when no size is given: %s',
    async (_name, width, height, ...expected) => {
      const image = await drawPicture(3, { width, height })
      const made = await pipeline.generate(editOf(image, first), {})
      expect([made.width, made.height]).toEqual(expected)
    },
  )

  test('writes no preview and tells of its images first', async () => {
    const seen: Progress[] = []
    const made = await pipeline.generate(editOf(first, second), {
      onProgress: (progress) => seen.push(progress),
    })
    expect(made.tokenCount).toBe(6)
    expect(Object.keys(made.timingsMs)[0]).toBe('images')
    const ofImages = seen.filter(({ stage }) => stage === 'images')
    expect(seen.slice(0, ofImages.length)).toEqual(ofImages)
    expect(ofImages.map(({ step }) => step)).toEqual([0, 1, 2, 3, 4])
    expect(ofImages.every(({ total }) => total === 4)).toBe(true)
    const ofGlyph = seen.filter(({ stage }) => stage === 'glyph')
    expect(ofGlyph.map(({ step }) => step)).toEqual([0, 1, 2, 3, 4, 5, 6, 7])
    expect(ofGlyph.every(({ total }) => total === 7)).toBe(true)
  })

  test.each<[string, Partial<ImageRequest>, RegExp]>([
    ['a file of another kind', { images: [Buffer.from('GIF89a')] }, /^images\[0\] must be a PNG/],
    [
      'too many',
      { images: Array<Uint8Array>(4).fill(new Uint8Array(0)) },
      /^images must be at most 3/,
    ],
  ])('is refused with %s', async (_name, change, message) => {
    expect(await refusalOf({ ...editOf(first), ...change })).toMatchObject({
      code: 'invalid_request',
      field: 'images',
      message: expect.stringMatching(message),
    })
  })

  test('is refused by the number of the image at fault', async () => {
    const long = await drawPicture(1, { width: 500, height: 100 })
    const cut = second.subarray(0, second.length - 200)
    const tiny = await drawPicture(1, { width: 15, height: 15 })
    for (const [image, rule] of [
      [long, /^images\[1\] must be at most 4 times as long as wide$/],
      [tiny, /^images\[1\] must have sides of at least 16 pixels$/],
      [cut, /^images\[1\] cannot be read: /],
    ] as const) {
      expect(await refusalOf(editOf(first, image))).toMatchObject({
        code: 'invalid_request',
        field: 'images',
        message: expect.stringMatching(rule),
      })
    }
    expect(await make(editOf(first))).toHaveLength(64)
  })

  test('is refused when its images are too large together, though none is alone', async () => {
    const image = await drawPicture(1, { width: 250, height: 250 })
    expect(await make(editOf(image))).toHaveLength(64)
    expect(await refusalOf(editOf(image, image))).toMatchObject({
      code: 'invalid_request',
      message: expect.stringMatching(/at most 80000 pixels together .*, not 131072$/),
    })
  })

  test('is refused when its text spells the token that stands for an image', async () => {
    const request = { ...editOf(first), prompt: 'one <|image|> more' }
    const seen: Progress[] = []
    const call = pipeline.generate(request, { onProgress: (progress) => seen.push(progress) })
    await expect(call).rejects.toMatchObject({
      code: 'invalid_request',
      field: 'prompt',
      message: 'prompt must not contain <|image|>',
    })
    expect(seen).toEqual([])
    const { images: _, ...withoutImages } = request
    expect(await make(withoutImages)).toHaveLength(64)
  })

  test('is refused when only one side is given', async () => {
    expect(await refusalOf({ ...editOf(first), width: 64 })).toMatchObject({ field: 'height' })
  })

  test('ends between the parts of its images when it is canceled', async () => {
    const controller = new AbortController()
    const steps: number[] = []
    const call = pipeline.generate(editOf(first, second), {
      signal: controller.signal,
      onProgress: ({ step }) => {
        steps.push(step)
        if (step === 3) controller.abort()
      },
    })
    await expect(call).rejects.toMatchObject({
      code: 'canceled',
      message: 'canceled in stage images',
    })
    expect(steps).toEqual([0, 1, 2, 3])
  })
})

describe('pictures out of text', () => {
  const request: ImageRequest = {
    prompt: "A sign 'Open'",
    width: 64,
    height: 96,
    seed: 3,
    steps: 2,
    format: 'png',
  }

  test.each([
    ['vision tower', 'vision_language_encoder', /^model\.visual\./],
    ['codebook', 'vision_language_encoder', /^model\.vqmodel\./],
    ['encoder to latents', 'vae', /^encoder\./],
  ])('need no %s, and edits are refused without it', async (_name, folder, pattern) => {
    const stripped = await copies.drop(source, folder, pattern)
    expect(await hashOf(stripped, request)).toBe(await hashOf(source, request))
    await withPipeline(stripped, async (pipeline) => {
      expect(pipeline.info.images).toBeNull()
      await expect(pipeline.generate(editOf(first), {})).rejects.toMatchObject({
        code: 'invalid_request',
        message: 'images are not read by this model',
      })
    })
  })

  test('do not touch what reads images: a broken layer of it is found by the first edit', async () => {
    const broken = await copies.drop(source, 'vision_language_encoder', /blocks\.1\.mlp\.fc2\.bias/)
    await withPipeline(broken, async (pipeline) => {
      expect(pipeline.info.images).toEqual({ maxCount: 3, maxPixels: 80_000 })
      await pipeline.generate(request, {})
      const edit = pipeline.generate(editOf(first), {})
      await expect(edit).rejects.toMatchObject({ code: 'model_invalid' })
      await pipeline.generate(request, {})
    })
  })
})

test.each(['BF16', 'F16'] as const)(
  'weights stored as %s give the same edit as their float32 values',
  async (dtype) => {
    const stored = await copies.convert(source, dtype)
    const widened = await copies.convert(stored, 'F32')
    expect(await hashOf(stored, editOf(first))).toBe(await hashOf(widened, editOf(first)))
  },
)

test('shards behind links give the edit of the single files', async () => {
  const request = editOf(first, second)
  expect(await hashOf(await copies.shard(source), request)).toBe(await hashOf(source, request))
})

test.each([
  ['vision_language_encoder', 'model.visual.patch_embed.proj.bias', NaN],
  ['vision_language_encoder', 'model.visual.blocks.1.mlp.fc2.bias', Infinity],
  ['vae', 'encoder.conv_out.bias', NaN],
])(
  'images that are read as numbers that are not finite make no picture: %s %s = %d',
  async (...at) => {
    const broken = await copies.fill(source, ...at)
    await expect(hashOf(broken, editOf(first))).rejects.toMatchObject({
      code: 'engine_failed',
      message: 'the model gave numbers that are not finite in stage images',
    })
  },
)
