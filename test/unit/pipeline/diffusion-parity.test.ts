import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { openCheckpoint } from '../../../gpu-worker/model/checkpoint.ts'
import type { Checkpoint } from '../../../gpu-worker/model/checkpoint.ts'
import { openTensorFile } from '../../../gpu-worker/model/safetensors.ts'
import { readIntegers, readTensor } from '../../../gpu-worker/model/tensor-data.ts'
import { openPixelDecoder } from '../../../gpu-worker/pipeline/decode.ts'
import type { PixelDecoder } from '../../../gpu-worker/pipeline/decode.ts'
import { openDenoiser } from '../../../gpu-worker/pipeline/denoise.ts'
import { fromPatches, toPatches } from '../../../gpu-worker/pipeline/patches.ts'
import type { Denoiser } from '../../../gpu-worker/pipeline/denoise.ts'
import {
  applyGuidance,
  createSchedule,
  stepEuler,
} from '../../../gpu-worker/pipeline/flow-match.ts'
import { openGlyphEncoder } from '../../../gpu-worker/pipeline/glyph-encoder.ts'
import type { GlyphEncoder } from '../../../gpu-worker/pipeline/glyph-encoder.ts'
import { BACKENDS } from '../../../gpu-worker/pipeline/session.ts'
import { extractGlyphTexts } from '../../../gpu-worker/pipeline/glyph.ts'

const GOLDEN = fileURLToPath(new URL('../../fixtures/golden', import.meta.url))
const TOLERANCE = 1e-4

interface GoldenCase {
  name: string
  kind: string
  prompt: string
  height: number
  width: number
  steps: number
  guidance_scale: number
  glyph_texts: string[]
}

const { cases } = JSON.parse(readFileSync(join(GOLDEN, 'cases/cases.json'), 'utf8')) as {
  cases: GoldenCase[]
}
const ofKind = (kind: string) => cases.filter((entry) => entry.kind === kind)
const open = async (name: string) => {
  const tensors = await openTensorFile(join(GOLDEN, 'cases', `${name}.safetensors`))
  return {
    floats: (tensor: string) => readTensor(tensors.get(tensor)),
    integers: (tensor: string) => readIntegers(tensors.get(tensor)),
    shape: (tensor: string) => tensors.get(tensor).shape,
  }
}

/** Largest absolute difference; unequal lengths and NaN are infinitely far apart. */
function distance(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) return Infinity
  let largest = 0
  for (let index = 0; index < actual.length; index += 1) {
    const difference = Math.abs(actual[index]! - expected[index]!)
    if (!(difference <= largest)) largest = Number.isNaN(difference) ? Infinity : difference
  }
  return largest
}

describe.each(BACKENDS)('on %s', (backend) => {
  let checkpoint: Checkpoint
  let denoiser: Denoiser
  let decoder: PixelDecoder
  let glyphs: GlyphEncoder

  beforeAll(async () => {
    checkpoint = await openCheckpoint(join(GOLDEN, 'checkpoint'))
    const options = { compute: 'float32', threads: 1, backend } as const
    denoiser = await openDenoiser(checkpoint, options)
    decoder = await openPixelDecoder(checkpoint, options)
    glyphs = await openGlyphEncoder(checkpoint, options)
  })
  afterAll(async () => {
    await Promise.all([denoiser.close(), decoder.close(), glyphs.close()])
  })

  test.each(ofKind('glyph'))(
    '$name: quoted text is encoded as by the reference',
    async (golden) => {
      const tensors = await open(golden.name)
      expect(extractGlyphTexts(golden.prompt).filter((text) => text !== '')).toEqual(
        golden.glyph_texts,
      )
      for (const [prompt, name] of [
        [golden.prompt, 'prompt_embeds'],
        ['', 'negative_prompt_embeds'],
      ] as const) {
        const states = await glyphs.encode(prompt)
        expect([1, ...states.shape]).toEqual(tensors.shape(name))
        expect(distance(states.data as Float32Array, await tensors.floats(name))).toBeLessThan(
          TOLERANCE,
        )
      }
    },
  )

  test.each(ofKind('schedule'))('$name: timesteps are exact and sigmas agree', async (golden) => {
    const tensors = await open(golden.name)
    const tokenCount = (golden.height / 16) * (golden.width / 16)
    const schedule = createSchedule(checkpoint.scheduler, { steps: golden.steps, tokenCount })
    expect(schedule.timesteps).toEqual([...(await tensors.floats('timesteps'))])
    expect(distance(schedule.sigmas, await tensors.floats('sigmas'))).toBeLessThan(1e-6)
  })

  describe.each(ofKind('diffusion'))('$name', (golden) => {
    const grid = { rows: golden.height / 8, columns: golden.width / 8 }
    const layout = { channels: 16, patch: 2, ...grid }

    const prepare = async () => {
      const tensors = await open(golden.name)
      const embeds = async (name: string) => ({
        data: await tensors.floats(name),
        shape: tensors.shape(name).slice(1),
      })
      const conditions = await denoiser.prepare({
        glyph: await embeds('prompt_embeds'),
        glyphNull: await embeds('negative_prompt_embeds'),
        priorIds: await tensors.integers('prior_token_ids'),
        width: golden.width,
        height: golden.height,
      })
      const patches = toPatches(await tensors.floats('latents'), layout)
      return { tensors, conditions, patches }
    }

    test('one call agrees with the reference, with and without the prompt', async () => {
      const { tensors, conditions, patches } = await prepare()
      const [timestep = NaN] = await tensors.floats('timestep')
      const { conditional, unconditional } = await denoiser.evaluate(
        patches,
        timestep,
        conditions,
        { guided: true },
      )
      const cond = await tensors.floats('cond')
      const uncond = await tensors.floats('uncond')
      expect(distance(fromPatches(conditional, layout), cond)).toBeLessThan(TOLERANCE)
      expect(distance(fromPatches(unconditional!, layout), uncond)).toBeLessThan(TOLERANCE)
    })

    test('all steps with guidance end in the reference latents and picture', async () => {
      const { tensors, conditions, patches } = await prepare()
      const { timesteps, sigmas } = createSchedule(checkpoint.scheduler, {
        steps: golden.steps,
        tokenCount: patches.length / 64,
      })
      for (const [step, timestep] of timesteps.entries()) {
        const velocity = await denoiser.evaluate(patches, timestep - 1, conditions, {
          guided: true,
        })
        applyGuidance(velocity.conditional, velocity.unconditional!, golden.guidance_scale)
        stepEuler(patches, velocity.conditional, {
          sigma: sigmas[step]!,
          sigmaNext: sigmas[step + 1]!,
        })
      }
      const latents = fromPatches(patches, layout)
      expect(distance(latents, await tensors.floats('final_latents'))).toBeLessThan(TOLERANCE)
      const planes = await decoder.decode(latents, grid)
      const image = await tensors.floats('image')
      const area = golden.height * golden.width
      const interleaved = image.map(
        (_, index) => planes[(index % 3) * area + Math.floor(index / 3)]!,
      )
      expect(distance(interleaved, image)).toBeLessThan(TOLERANCE)
    })
  })
})
