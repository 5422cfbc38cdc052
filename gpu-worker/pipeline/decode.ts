import type { Checkpoint } from '../model/checkpoint.ts'
import { buildVaeDecoder } from '../model/vae.ts'
import type { StageOptions } from './glyph-encoder.ts'
import { requireFinite, takeFloats } from './outputs.ts'
import { openSession } from './session.ts'
import type { RunHooks } from './session.ts'

export interface PixelDecoder {
  /**
   * Turns latents into a picture.
   *
   * @param latents float32 [channels, rows, columns], as the denoiser leaves them
   * @returns float32 [3, rows * scale, columns * scale] in 0..1
   * @throws EngineError `engine_failed` when the decoder gave a number that is not finite
   */
  decode(
    latents: Float32Array,
    grid: { rows: number; columns: number },
    hooks?: RunHooks,
  ): Promise<Float32Array>
  close(): Promise<void>
}

/** Opens the decoder from latents to pixels. */
export async function openPixelDecoder(
  checkpoint: Checkpoint,
  options: Omit<StageOptions, 'compute'>,
): Promise<PixelDecoder> {
  const config = checkpoint.vae
  const graph = buildVaeDecoder(config, await checkpoint.tensors('vae'))
  const session = await openSession(graph, options)
  return {
    async decode(latents, { rows, columns }, hooks) {
      const shape = [1, config.latentChannels, rows, columns]
      const feeds = { latents: { data: latents, shape } }
      const results = await session.run(feeds, ['image', 'magnitude'], hooks)
      requireFinite(takeFloats(results, 'magnitude'), 'decode')
      return takeFloats(results, 'image')
    },
    close: () => session.close(),
  }
}
