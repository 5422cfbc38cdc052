import type { Checkpoint } from '../model/checkpoint.ts'
import { buildTextEncoder } from '../model/text-encoder.ts'
import type { ComputeType } from '../onnx/graph.ts'
import { extractGlyphTexts, toGlyphIds } from './glyph.ts'
import { takeFloats } from './outputs.ts'
import { openSession } from './session.ts'
import type { HostTensor, SessionOptions } from './session.ts'

export interface StageOptions extends SessionOptions {
  compute: ComputeType
}

export interface GlyphEncoder {
  /**
   * Encoder states of every quoted text of a prompt, one after another: float32 [length, size].
   * `encode('')` is the negative prompt.
   */
  encode(prompt: string): Promise<HostTensor & { data: Float32Array }>
  close(): Promise<void>
}

/** Opens the encoder of quoted text. */
export async function openGlyphEncoder(
  checkpoint: Checkpoint,
  options: StageOptions,
): Promise<GlyphEncoder> {
  const config = checkpoint.textEncoder
  const tensors = await checkpoint.tensors('text_encoder')
  const graph = buildTextEncoder(config, tensors, options.compute)
  const session = await openSession(graph, options)
  return {
    async encode(prompt) {
      const parts: Float32Array[] = []
      for (const ids of toGlyphIds(extractGlyphTexts(prompt))) {
        const data = BigInt64Array.from(ids, BigInt)
        const results = await session.run({ ids: { data, shape: [ids.length] } })
        parts.push(takeFloats(results, 'states'))
      }
      const data = concatenate(parts)
      return { data, shape: [data.length / config.modelSize, config.modelSize] }
    },
    close: () => session.close(),
  }
}

function concatenate(parts: readonly Float32Array[]): Float32Array {
  const all = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0))
  let offset = 0
  for (const part of parts) {
    all.set(part, offset)
    offset += part.length
  }
  return all
}
