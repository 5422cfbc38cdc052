import type { Engine } from './engine.ts'
import { EngineError } from './engine-error.ts'

/** Enough to go through every stage; what the picture shows is nobody's concern. */
const STEPS = 2

/**
 * Draws the smallest picture there is. A worker that has not drawn one is not ready: a card that computes nothing, a
 * checkpoint with a hole or the wrong provider show here and not in somebody's job. It also pays for what a first run
 * pays for: memory, kernels, pages of the weights.
 *
 * @returns how long it took
 * @throws EngineError what the engine threw, or `provider_unavailable` when it computes elsewhere than it was told to
 */
export async function drawFirstPicture(
  engine: Pick<Engine, 'info' | 'generate'>,
  provider: string,
): Promise<number> {
  const { info } = engine
  if (info.provider !== provider) {
    throw new EngineError(
      'provider_unavailable',
      `The engine computes on ${info.provider}, and not on ${provider} as it was told to.`,
    )
  }
  const { minSide, multipleOf } = info.size
  const side = Math.ceil(minSide / multipleOf) * multipleOf
  const startedAt = performance.now()
  const picture = await engine.generate({
    prompt: 'A sign that says "READY"',
    width: side,
    height: side,
    seed: 1,
    steps: STEPS,
    format: 'png',
  })
  if (picture.bytes.length === 0) throw new EngineError('engine_failed', 'The picture is empty.')
  return performance.now() - startedAt
}
