import { takeFloats } from './outputs.ts'
import type { Feeds } from './session.ts'

/** Keys and values of some pictures in every layer, float32 [rows, kv heads, length, head size] each. */
export interface DecoderCache {
  /** By the decoder's names for them. */
  readonly feeds: Feeds
  /** Tokens that there is room for in every row. */
  readonly length: number
}

export interface CacheShape {
  readonly layerCount: number
  readonly keyValueHeadCount: number
  readonly headDim: number
}

/** The rows of one picture in a cache of several. */
export interface CachePart {
  /** Null only where there are no tokens. */
  readonly cache: DecoderCache | null
  /** Which row of it. */
  readonly place: number
  /** How many tokens the picture has; what lies behind them is nobody's. */
  readonly length: number
}

/** Lays the rows of several pictures into one cache as long as the longest; of none, the cache of a new picture. */
export function packCaches(shape: CacheShape, parts: readonly CachePart[]): DecoderCache {
  const { keyValueHeadCount: heads, headDim } = shape
  const length = Math.max(0, ...parts.map((part) => part.length))
  const rows = Math.max(1, parts.length)
  const feeds: Feeds = {}
  for (const { input } of cacheNames(shape)) {
    const data = new Float32Array(rows * heads * length * headDim)
    parts.forEach(({ cache, place, length: own }, row) => {
      if (own === 0) return
      if (!cache || place < 0) throw new Error('a row was written before its prompt was read')
      const from = takeFloats(cache.feeds, input)
      for (let head = 0; head < heads; head += 1) {
        const start = (place * heads + head) * cache.length * headDim
        const target = (row * heads + head) * length * headDim
        data.set(from.subarray(start, start + own * headDim), target)
      }
    })
    feeds[input] = { data, shape: [rows, heads, length, headDim] }
  }
  return { feeds, length }
}

/** What a run gave, as the next one takes it. */
export function keepRows(shape: CacheShape, results: Feeds): DecoderCache {
  const feeds: Feeds = {}
  let length = 0
  for (const { input, output } of cacheNames(shape)) {
    const tensor = results[output]
    if (!tensor) throw new Error(`the decoder gave no ${output}`)
    feeds[input] = tensor
    length = tensor.shape[2] ?? 0
  }
  return { feeds, length }
}

/** What the decoder calls the keys and values of every layer. */
export function cacheNames({
  layerCount,
}: Pick<CacheShape, 'layerCount'>): { input: string; output: string }[] {
  return Array.from({ length: layerCount }, (_, layer) =>
    ['key', 'value'].map((kind) => ({
      input: `past_${kind}_${layer}`,
      output: `${kind}_${layer}`,
    })),
  ).flat()
}
