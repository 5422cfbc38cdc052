import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { openCheckpoint } from '../../../gpu-worker/model/checkpoint.ts'
import { VECTORS_PER_BLOCK } from '../../../gpu-worker/model/transformer-conditions.ts'
import { openCase, readCases, required } from '../../../gpu-worker/parity/cases.ts'
import type { ParityCase, ParitySubject } from '../../../gpu-worker/parity/cases.ts'
import { openDenoiser } from '../../../gpu-worker/pipeline/denoise.ts'
import {
  applyGuidance,
  createSchedule,
  stepEuler,
} from '../../../gpu-worker/pipeline/flow-match.ts'
import { openPipeline } from '../../../gpu-worker/pipeline/glm-image.ts'
import { fromPatches, toPatches } from '../../../gpu-worker/pipeline/patches.ts'
import { createStepCache } from '../../../gpu-worker/pipeline/step-cache.ts'

const GOLDEN = 'test/fixtures/golden'
const SERVED = fileURLToPath(new URL('../../fixtures/checkpoint', import.meta.url))
const CPU = { compute: 'float32', threads: 1 } as const

const cases = (await readCases(GOLDEN)).filter(({ kind }) => kind === 'diffusion')

/** Final latents of a golden case with 50 steps: how many were computed, and the relative distance from all of them. */
async function measure(name: string, thresholds: readonly number[]) {
  const checkpoint = await openCheckpoint(`${GOLDEN}/checkpoint`)
  const parityCase = cases.find((own) => own.name === name)!
  const tensors = await openCase(GOLDEN, name)
  const { transformer: config, vae, patchPixels } = checkpoint
  const [width, height] = [required(parityCase, 'width'), required(parityCase, 'height')]
  const layout = {
    channels: config.inChannels,
    patch: config.patchSize,
    rows: height / vae.scale,
    columns: width / vae.scale,
  }
  const states = async (tensor: string) => ({
    data: await tensors.floats(tensor),
    shape: tensors.shape(tensor).slice(1),
  })
  const denoiser = await openDenoiser(checkpoint, CPU)
  const conditions = await denoiser.prepare({
    glyph: await states('prompt_embeds'),
    glyphNull: await states('negative_prompt_embeds'),
    priorIds: await tensors.integers('prior_token_ids'),
    width,
    height,
  })
  const start = await tensors.floats('latents')
  const guidance = required(parityCase, 'guidance_scale')
  const tokenCount = (width * height) / patchPixels ** 2
  const run = async (threshold: number, steps = 50) => {
    const { timesteps, sigmas } = createSchedule(checkpoint.scheduler, { steps, tokenCount })
    const cache = createStepCache(threshold, VECTORS_PER_BLOCK * config.innerSize)
    const patches = toPatches(start, layout)
    let computed = 0
    for (const [step, timestep] of timesteps.entries()) {
      const modulation = await denoiser.modulate(timestep - 1, conditions)
      let velocity = cache.reuse(modulation.data as Float32Array, step === timesteps.length - 1)
      if (!velocity) {
        computed += 1
        const made = await denoiser.evaluate(patches, modulation, conditions, {
          guided: guidance > 1,
        })
        if (made.unconditional) applyGuidance(made.conditional, made.unconditional, guidance)
        velocity = cache.keep(made.conditional)
      }
      const [sigma = 0, sigmaNext = 0] = sigmas.subarray(step, step + 2)
      stepEuler(patches, velocity, { sigma, sigmaNext })
    }
    return { computed, latents: fromPatches(patches, layout) }
  }
  const whole = await run(0)
  const toRow = ({ computed, latents }: Awaited<ReturnType<typeof run>>) => {
    let difference = 0
    let size = 0
    for (const [index, value] of whole.latents.entries()) {
      difference += (value - (latents[index] ?? 0)) ** 2
      size += value ** 2
    }
    return { computed, error: Math.sqrt(difference / size) }
  }
  const rows = []
  for (const threshold of thresholds) rows.push(toRow(await run(threshold)))
  const fewer = toRow(await run(0, 25))
  await denoiser.close()
  return { whole: whole.computed, rows, fewer }
}

test.each(cases.map(({ name }) => name))(
  'on %s it leaves out half of 50 steps and more at its price: 7 and 13 percent of the final latents',
  async (name) => {
    const { whole, rows, fewer } = await measure(name, [1e-9, 0.5, 1, 2])
    expect(whole).toBe(50)
    const [none, some, half, most] = rows
    expect(none).toEqual({ computed: 50, error: 0 })
    expect(some!.computed).toBeLessThan(45)
    expect(some!.error).toBeLessThan(0.06)
    expect(half!.computed).toBeLessThan(28)
    expect(half!.error).toBeLessThan(0.07)
    expect(most!.computed).toBeLessThan(17)
    expect(most!.error).toBeLessThan(0.13)
    expect(most!.error).toBeGreaterThan(half!.error)
    // What asking for 25 steps costs, which needs no cache.
    expect(fewer.error).toBeLessThan(0.05)
  },
)

/** As `measure`, but blocks are left out and not whole steps; steps count by the share of branches computed whole. */
async function measureBlocks(name: string, thresholds: readonly number[]) {
  const checkpoint = await openCheckpoint(`${GOLDEN}/checkpoint`)
  const parityCase = cases.find((own) => own.name === name)!
  const subject = { checkpoint, dir: GOLDEN, options: CPU }
  const whole = await drawLatents(subject, parityCase, 0)
  const rows = []
  for (const threshold of thresholds) {
    const { computed, latents } = await drawLatents(subject, parityCase, threshold)
    const differences = whole.latents.map((value, index) => value - latents[index]!)
    rows.push({ computed, error: Math.hypot(...differences) / Math.hypot(...whole.latents) })
  }
  return rows
}

async function drawLatents(
  { checkpoint, dir, options }: ParitySubject,
  parityCase: ParityCase,
  firstBlockCache: number,
) {
  const tensors = await openCase(dir, parityCase.name)
  const { transformer: config, vae, patchPixels } = checkpoint
  const [width, height] = [required(parityCase, 'width'), required(parityCase, 'height')]
  const layout = {
    channels: config.inChannels,
    patch: config.patchSize,
    rows: height / vae.scale,
    columns: width / vae.scale,
  }
  const states = async (tensor: string) => ({
    data: await tensors.floats(tensor),
    shape: tensors.shape(tensor).slice(1),
  })
  const denoiser = await openDenoiser(checkpoint, { ...options, firstBlockCache })
  const conditions = await denoiser.prepare({
    glyph: await states('prompt_embeds'),
    glyphNull: await states('negative_prompt_embeds'),
    priorIds: await tensors.integers('prior_token_ids'),
    width,
    height,
  })
  const tokenCount = (width * height) / patchPixels ** 2
  const { timesteps, sigmas } = createSchedule(checkpoint.scheduler, { steps: 50, tokenCount })
  const patches = toPatches(await tensors.floats('latents'), layout)
  let computed = 0
  for (const [step, timestep] of timesteps.entries()) {
    const mustCompute = step === timesteps.length - 1
    const made = await denoiser.evaluate(patches, timestep - 1, conditions, {
      guided: true,
      mustCompute,
    })
    if (mustCompute) expect(made.computed).toBe(2)
    computed += made.computed / 2
    applyGuidance(made.conditional, made.unconditional!, required(parityCase, 'guidance_scale'))
    const [sigma = 0, sigmaNext = 0] = sigmas.subarray(step, step + 2)
    stepEuler(patches, made.conditional, { sigma, sigmaNext })
  }
  conditions.release()
  await denoiser.close()
  return { computed, latents: fromPatches(patches, layout) }
}

test.each(cases.map(({ name }) => name))(
  'on %s the first block decides for the others at its price: 4 and 7 percent of the final latents',
  async (name) => {
    const [none, some, more] = await measureBlocks(name, [1e-9, 0.7, 0.8])
    expect(none).toEqual({ computed: 50, error: 0 })
    expect(some!.computed).toBeLessThan(45)
    expect(some!.error).toBeLessThan(0.04)
    expect(more!.computed).toBeLessThan(38)
    expect(more!.error).toBeLessThan(0.07)
    expect(more!.error).toBeGreaterThan(0)
  },
)

test('what the denoiser keeps of a condition image is the same, in one graph or in two', async () => {
  const checkpoint = await openCheckpoint(`${GOLDEN}/checkpoint`)
  const { inChannels, patchSize } = checkpoint.transformer
  const source = {
    patches: Float32Array.from({ length: 24 * inChannels * patchSize ** 2 }, (_, at) =>
      Math.sin(at),
    ),
    priorIds: Array.from({ length: 24 }, (_, at) => at),
    width: 96,
    height: 64,
  }
  const kept = []
  for (const firstBlockCache of [0, 0.5]) {
    const denoiser = await openDenoiser(checkpoint, { ...CPU, firstBlockCache })
    kept.push(await denoiser.readSource(source))
    await denoiser.close()
  }
  expect(Object.keys(kept[0]!)).toHaveLength(2 * checkpoint.transformer.layerCount)
  expect(kept[1]).toEqual(kept[0])
})

test.each(['stepCache', 'firstBlockCache'] as const)(
  '%s is off unless asked for, and says so of itself when it is on',
  async (option) => {
    const request = {
      prompt: "A 'B'",
      width: 64,
      height: 96,
      seed: 3,
      steps: 20,
      format: 'png',
    } as const
    const draw = async (threshold?: number) => {
      const options = threshold === undefined ? {} : { [option]: threshold }
      const pipeline = await openPipeline(SERVED, { threads: 1, ...options })
      const { sha256 } = await pipeline.generate(request, {})
      await pipeline.close()
      return { sha256, said: pipeline.info[option] }
    }
    const plain = await draw()
    expect(plain.said).toBeUndefined()
    expect(await draw(0)).toEqual(plain)
    const cached = await draw(5)
    expect(cached.said).toBe(5)
    expect(cached.sha256).not.toBe(plain.sha256)
  },
)
