import type { AutoregressiveConfig } from '../model/config.ts'
import type { RotaryTable } from '../model/rope.ts'
import { rotaryRows } from '../model/rope.ts'
import { requireFinite } from './outputs.ts'
import type { Feeds, HostTensor, Session } from './session.ts'

/** What decides each token: a uniform number per token, or the tokens themselves. */
export type Draws = { uniforms: Float32Array } | { forced: BigInt64Array }

export interface ChunkResult {
  /** Tokens written in this chunk. */
  tokens: bigint[]
  /** Present when the graph was built with logits. */
  promptLogits: HostTensor | null
  stepLogits: HostTensor | null
}

export interface DecoderRun {
  /**
   * Writes the next `count` tokens; the first call also reads the prompt.
   *
   * @throws EngineError `engine_failed` when a token was drawn from numbers that are not finite
   */
  write(count: number): Promise<ChunkResult>
}

/**
 * Follows one picture through the decoder: keeps the cache between chunks and hands each chunk its rows of
 * the rotary table and of the draws.
 *
 * @param input.rotary one row per prompt token and per token that is fed back
 */
export function startDecoderRun(
  session: Session,
  config: AutoregressiveConfig,
  input: { ids: readonly number[]; rotary: RotaryTable; draws: Draws },
): DecoderRun {
  let ids = BigInt64Array.from(input.ids, BigInt)
  let fed = 0
  let written = 0
  let cache = emptyCache(config)
  return {
    async write(count) {
      const rows = rotaryRows(input.rotary, fed, fed + ids.length + count - 1)
      const shape = [rows.count, rows.size]
      const results = await session.run({
        ids: { data: ids, shape: [1, ids.length] },
        cos: { data: rows.cos, shape },
        sin: { data: rows.sin, shape },
        steps: { data: BigInt64Array.of(BigInt(count - 1)), shape: [] },
        ...drawRows(input.draws, written, count),
        ...cache,
      })
      const tokens = results.tokens?.data
      if (!(tokens instanceof BigInt64Array)) throw new Error('the decoder wrote no tokens')
      if (results.mass?.data instanceof Float32Array) requireFinite(results.mass.data, 'tokens')
      cache = nextCache(config, results)
      fed += ids.length + count - 1
      written += count
      ids = tokens.slice(-1)
      return {
        tokens: [...tokens],
        promptLogits: results.prompt_logits ?? null,
        stepLogits: results.step_logits ?? null,
      }
    },
  }
}

function drawRows(draws: Draws, start: number, count: number): Feeds {
  const shape = [count, 1]
  return 'uniforms' in draws
    ? { uniforms: { data: draws.uniforms.subarray(start, start + count), shape } }
    : { forced: { data: draws.forced.subarray(start, start + count), shape } }
}

function emptyCache(config: AutoregressiveConfig): Feeds {
  const shape = [1, config.keyValueHeadCount, 0, config.headDim]
  return perLayer(config, () => ({ data: new Float32Array(0), shape }))
}

function nextCache(config: AutoregressiveConfig, results: Feeds): Feeds {
  return perLayer(config, (kind, layer) => {
    const tensor = results[`${kind}_${layer}`]
    if (!tensor) throw new Error(`the decoder gave no ${kind} cache for layer ${layer}`)
    return tensor
  })
}

function perLayer(
  config: AutoregressiveConfig,
  make: (kind: 'key' | 'value', layer: number) => HostTensor,
): Feeds {
  const feeds: Feeds = {}
  for (let layer = 0; layer < config.layerCount; layer++) {
    feeds[`past_key_${layer}`] = make('key', layer)
    feeds[`past_value_${layer}`] = make('value', layer)
  }
  return feeds
}
