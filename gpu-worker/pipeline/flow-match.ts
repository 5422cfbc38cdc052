import type { SchedulerConfig } from '../model/config.ts'

/** The noise levels of one picture, by step. */
export interface Schedule {
  /** Unshifted integers, falling; the denoiser is told this number minus one. */
  readonly timesteps: readonly number[]
  /** float32, one more than the steps; the last is 0. */
  readonly sigmas: Float32Array
}

/**
 * Timesteps and sigmas of flow matching with a shift that grows with the picture.
 *
 * The two lists drift apart on purpose: the model was trained on unshifted timesteps while the Euler steps use
 * shifted sigmas. Deriving one from the other gives washed-out pictures.
 *
 * @param tokenCount denoiser tokens of the picture
 * @source flow-match Euler scheduler of diffusers before 0.40; linear time shift
 */
export function createSchedule(
  config: SchedulerConfig,
  { steps, tokenCount }: { steps: number; tokenCount: number },
): Schedule {
  const last = config.trainTimesteps
  const mu = config.maxShift * Math.sqrt(tokenCount / config.baseTokens) + config.baseShift
  // In the order of numpy.linspace: another order rounds two of 99 steps to other integers.
  const stride = (1 - last) / steps
  const timesteps = Array.from({ length: steps }, (_, step) => Math.trunc(step * stride + last))
  const sigmas = new Float32Array(steps + 1)
  timesteps.forEach((timestep, step) => {
    sigmas[step] = mu / (mu + (last / timestep - 1))
  })
  return { timesteps, sigmas }
}

/**
 * One Euler step, in place: latents + (sigmaNext - sigma) * velocity.
 *
 * @param latents float32, any shape
 * @param velocity float32, same shape
 * @source Liu et al. 2022, rectified flow, Euler method
 */
export function stepEuler(
  latents: Float32Array,
  velocity: Float32Array,
  { sigma, sigmaNext }: { sigma: number; sigmaNext: number },
): void {
  const delta = Math.fround(sigmaNext - sigma)
  for (let index = 0; index < latents.length; index += 1) {
    latents[index] = (latents[index] ?? 0) + delta * (velocity[index] ?? 0)
  }
}

/**
 * Classifier-free guidance, in place on `conditional`: unconditional + scale * (conditional - unconditional).
 *
 * @param conditional float32, velocity with the prompt
 * @param unconditional float32, same shape, velocity without it
 */
export function applyGuidance(
  conditional: Float32Array,
  unconditional: Float32Array,
  scale: number,
): void {
  for (let index = 0; index < conditional.length; index += 1) {
    const base = unconditional[index] ?? 0
    conditional[index] = base + scale * ((conditional[index] ?? 0) - base)
  }
}
