import type { TransformerConfig } from '../model/config.ts'
import { takeFloats } from './outputs.ts'
import type { Feeds } from './session.ts'

/**
 * Keys and values of condition images in every layer, float32 [1, tokens, D] each, by the denoiser's names for them. They
 * lie in host memory, 4 GB for a picture of 1024 x 1024 at the published dimensions: the binding leaves nothing on a card
 * between two runs, so there every step copies them anew.
 */
export type SourceCache = Feeds

/** Size of the cache of so many tokens. */
export function cacheBytes({ layerCount, innerSize }: TransformerConfig, tokens: number): number {
  return 2 * layerCount * innerSize * tokens * Float32Array.BYTES_PER_ELEMENT
}

/** What a picture without condition images has. */
export function emptyCache(config: TransformerConfig): SourceCache {
  const shape = [1, 0, config.innerSize]
  return Object.fromEntries(
    slots(config).map(({ input }) => [input, { data: new Float32Array(0), shape }]),
  )
}

/** The outputs of a run that hold what it kept. */
export function keptNames(config: TransformerConfig): string[] {
  return slots(config).map(({ output }) => output)
}

/** What a run kept, as later runs take it. */
export function toCache(results: Feeds, config: TransformerConfig): SourceCache {
  return Object.fromEntries(
    slots(config).map(({ input, output }) => {
      const data = takeFloats(results, output)
      return [input, { data, shape: [1, data.length / config.innerSize, config.innerSize] }]
    }),
  )
}

/**
 * Several images one after another. The parts are emptied on the way: at real sizes they take gigabytes, and both
 * would have to be held otherwise.
 */
export function joinCaches(parts: readonly SourceCache[], config: TransformerConfig): SourceCache {
  const [first, ...others] = parts
  if (first && others.length === 0) return first
  const joined: SourceCache = {}
  for (const { input } of slots(config)) {
    const rows = parts.map((part) => takeFloats(part, input))
    for (const part of parts) delete part[input]
    const data = new Float32Array(rows.reduce((sum, { length }) => sum + length, 0))
    let offset = 0
    for (const row of rows) {
      data.set(row, offset)
      offset += row.length
    }
    joined[input] = { data, shape: [1, data.length / config.innerSize, config.innerSize] }
  }
  return joined
}

function slots({ layerCount }: TransformerConfig): { input: string; output: string }[] {
  return Array.from({ length: layerCount }, (_, layer) =>
    ['key', 'value'].map((kind) => ({
      input: `source_${kind}_${layer}`,
      output: `${kind}_${layer}`,
    })),
  ).flat()
}
