import { openCase, required } from './cases.ts'
import type { ParityCase, ParitySubject } from './cases.ts'
import { compareFloats, compareIntegers } from './report.ts'
import type { ParityRow } from './report.ts'
import type { Checkpoint } from '../model/checkpoint.ts'
import { openPixelDecoder } from '../pipeline/decode.ts'
import { openDenoiser } from '../pipeline/denoise.ts'
import { fromPatches, toPatches } from '../pipeline/patches.ts'
import type { DenoiseConditions, Denoiser, Velocities } from '../pipeline/denoise.ts'
import type { PatchLayout } from '../pipeline/patches.ts'
import { applyGuidance, createSchedule, stepEuler } from '../pipeline/flow-match.ts'
import { openGlyphEncoder } from '../pipeline/glyph-encoder.ts'
import { extractGlyphTexts } from '../pipeline/glyph.ts'
import { takeFloats } from '../pipeline/outputs.ts'

/** Compares the quoted texts of a `glyph` case and their encoder states, and those of the empty prompt. */
export async function compareGlyph(
  { checkpoint, dir, options }: ParitySubject,
  parityCase: ParityCase,
): Promise<ParityRow[]> {
  const { name } = parityCase
  const prompt = required(parityCase, 'prompt')
  const tensors = await openCase(dir, name)
  const encoder = await openGlyphEncoder(checkpoint, options)
  try {
    const texts = extractGlyphTexts(prompt).filter((text) => text !== '')
    const isSame = JSON.stringify(texts) === JSON.stringify(required(parityCase, 'glyph_texts'))
    const rows = [compareIntegers(name, 'quoted texts', [isSame ? 1 : 0], [1])]
    for (const [text, tensor] of [
      [prompt, 'prompt_embeds'],
      ['', 'negative_prompt_embeds'],
    ] as const) {
      const states = takeFloats({ states: await encoder.encode(text) }, 'states')
      rows.push(
        compareFloats(name, tensor.replaceAll('_', ' '), states, await tensors.floats(tensor)),
      )
    }
    return rows
  } finally {
    await encoder.close()
  }
}

/** Compares timesteps and sigmas of a `schedule` case. */
export async function compareSchedule(
  { checkpoint, dir }: ParitySubject,
  parityCase: ParityCase,
): Promise<ParityRow[]> {
  const { name } = parityCase
  const tensors = await openCase(dir, name)
  const schedule = scheduleOf(checkpoint, parityCase)
  return [
    compareIntegers(name, 'timesteps', schedule.timesteps, await tensors.floats('timesteps')),
    compareFloats(name, 'sigmas', schedule.sigmas, await tensors.floats('sigmas')),
  ]
}

/**
 * Compares a `diffusion` case: one call with and without the prompt, then all Euler steps with guidance to the
 * final latents and the picture.
 */
export async function compareDiffusion(
  subject: ParitySubject,
  parityCase: ParityCase,
): Promise<ParityRow[]> {
  const { checkpoint, dir } = subject
  const { name } = parityCase
  const tensors = await openCase(dir, name)
  const { patchSize, inChannels } = checkpoint.transformer
  const grid = {
    rows: required(parityCase, 'height') / checkpoint.vae.scale,
    columns: required(parityCase, 'width') / checkpoint.vae.scale,
  }
  const layout = { channels: inChannels, patch: patchSize, ...grid }
  const { single, patches } = await runDenoiser(subject, { parityCase, layout })
  const latents = fromPatches(patches, layout)
  const planes = await decodeOnce(subject, latents, grid)
  const floats = async (stage: string, actual: ArrayLike<number>, tensor: string) =>
    compareFloats(name, stage, actual, await tensors.floats(tensor))
  return [
    await floats('conditional call', fromPatches(single.conditional, layout), 'cond'),
    await floats(
      'unconditional call',
      fromPatches(single.unconditional ?? new Float32Array(0), layout),
      'uncond',
    ),
    await floats('final latents', latents, 'final_latents'),
    await floats('picture', interleave(planes), 'image'),
  ]
}

async function decodeOnce(
  { checkpoint, options }: ParitySubject,
  latents: Float32Array,
  grid: { rows: number; columns: number },
): Promise<Float32Array> {
  const decoder = await openPixelDecoder(checkpoint, options)
  try {
    return await decoder.decode(latents, grid)
  } finally {
    await decoder.close()
  }
}

/** The single call of the case, and the patches after all of its steps. */
async function runDenoiser(
  { checkpoint, dir, options }: ParitySubject,
  input: { parityCase: ParityCase; layout: PatchLayout },
): Promise<{ single: Velocities; patches: Float32Array }> {
  const { parityCase, layout } = input
  const tensors = await openCase(dir, parityCase.name)
  const states = async (tensor: string) => ({
    data: await tensors.floats(tensor),
    shape: tensors.shape(tensor).slice(1),
  })
  const denoiser = await openDenoiser(checkpoint, options)
  try {
    const conditions = await denoiser.prepare({
      glyph: await states('prompt_embeds'),
      glyphNull: await states('negative_prompt_embeds'),
      priorIds: await tensors.integers('prior_token_ids'),
      width: required(parityCase, 'width'),
      height: required(parityCase, 'height'),
    })
    const patches = toPatches(await tensors.floats('latents'), layout)
    const [start = NaN] = await tensors.floats('timestep')
    const single = await denoiser.evaluate(patches, start, conditions, { guided: true })
    await stepThrough(checkpoint, denoiser, { parityCase, conditions, patches })
    return { single, patches }
  } finally {
    await denoiser.close()
  }
}

/** All Euler steps of a case with its guidance, in place on `patches`. */
export async function stepThrough(
  checkpoint: Checkpoint,
  denoiser: Denoiser,
  input: { parityCase: ParityCase; conditions: DenoiseConditions; patches: Float32Array },
): Promise<void> {
  const { parityCase, conditions, patches } = input
  const guidanceScale = required(parityCase, 'guidance_scale')
  const { timesteps, sigmas } = scheduleOf(checkpoint, parityCase)
  for (const [step, timestep] of timesteps.entries()) {
    const guided = guidanceScale > 1
    const velocity = await denoiser.evaluate(patches, timestep - 1, conditions, { guided })
    if (velocity.unconditional) {
      applyGuidance(velocity.conditional, velocity.unconditional, guidanceScale)
    }
    stepEuler(patches, velocity.conditional, {
      sigma: sigmas[step] ?? NaN,
      sigmaNext: sigmas[step + 1] ?? NaN,
    })
  }
}

function scheduleOf(checkpoint: Checkpoint, parityCase: ParityCase) {
  const { patchPixels, scheduler } = checkpoint
  const area = required(parityCase, 'height') * required(parityCase, 'width')
  return createSchedule(scheduler, {
    steps: required(parityCase, 'steps'),
    tokenCount: area / patchPixels ** 2,
  })
}

/** [3, height, width] to [height, width, 3]. */
function interleave(planes: Float32Array): Float32Array {
  const area = planes.length / 3
  return planes.map((_, index) => planes[(index % 3) * area + Math.floor(index / 3)] ?? NaN)
}
