import type { AutoregressiveConfig } from '../model/config.ts'
import type { RotaryTable } from '../model/rope.ts'
import { rotaryRows } from '../model/rope.ts'
import type { DecoderCache } from './decoder-cache.ts'
import type { Feeds } from './session.ts'

/** What decides each token: a uniform number per token, or the tokens themselves. */
export type Draws = { uniforms: Float32Array } | { forced: BigInt64Array }

export interface RowInput {
  ids: readonly number[]
  /** One row per prompt token and per token that is fed back. */
  rotary: RotaryTable
  draws: Draws
}

/** One picture that is being written. */
export interface DecoderRow {
  readonly input: RowInput
  /** Tokens in the cache. */
  fed: number
  /** Tokens written. */
  written: number
  /** What is fed next. */
  next: BigInt64Array
  /** Its own cache while it is not in the batch's. */
  cache: DecoderCache | null
}

export function createRow(input: RowInput): DecoderRow {
  const next = BigInt64Array.from(input.ids, BigInt)
  return { input, fed: 0, written: 0, next, cache: null }
}

/** Fills a batch up: a prompt of one token, whose writing is thrown away. */
export const FILLER: RowInput = {
  ids: [0],
  rotary: { cos: new Float32Array(0), sin: new Float32Array(0), count: 0, size: 0 },
  draws: { uniforms: new Float32Array(0) },
}

/**
 * What a run did to its rows.
 *
 * @param tokens int64 [count, rows], as the graph gave them
 */
export function noteRun(rows: readonly DecoderRow[], count: number, results: Feeds): BigInt64Array {
  const tokens = tokensOf(results)
  for (const [place, row] of rows.entries()) {
    row.fed += row.next.length + count - 1
    row.written += count
    const at = tokens.length - rows.length + place
    row.next = tokens.slice(at, at + 1)
  }
  return tokens
}

/** int64 [count, rows] */
export function tokensOf(results: Feeds): BigInt64Array {
  const tokens = results['tokens']?.data
  if (tokens instanceof BigInt64Array) return tokens
  throw new Error('the decoder wrote no tokens')
}

/** What a run of some rows is fed, but for the cache: all that they are to read, and the draws of the next `count` tokens. */
export function toFeeds(
  config: AutoregressiveConfig,
  rows: readonly DecoderRow[],
  count: number,
): Feeds {
  const length = rows[0]?.next.length ?? 0
  const size = config.rope.width / 2
  const none = new Float32Array((length + count - 1) * size)
  const tables = rows.map(({ input, fed }) =>
    input === FILLER
      ? { cos: none, sin: none }
      : rotaryRows(input.rotary, fed, fed + length + count - 1),
  )
  const rotary = (part: 'cos' | 'sin') => ({
    data: joinFloats(tables.map((table) => table[part])),
    shape: [rows.length, length + count - 1, size],
  })
  return {
    ids: { data: joinIds(rows.map(({ next }) => next)), shape: [rows.length, length] },
    lengths: {
      data: BigInt64Array.from(rows, ({ fed }) => BigInt(fed)),
      shape: [rows.length],
    },
    cos: rotary('cos'),
    sin: rotary('sin'),
    ...toDraws(rows, count),
  }
}

/** [count, rows]: what belongs to one step lies together. */
function toDraws(rows: readonly DecoderRow[], count: number): Feeds {
  const shape = [count, rows.length]
  const places = Array.from({ length: count * rows.length }, (_, index) => ({
    row: rows[index % rows.length],
    step: Math.floor(index / rows.length),
  }))
  const isForced = rows.some(({ input }) => 'forced' in input.draws)
  if (isForced) {
    const forced = places.map(({ row, step }) => {
      const draws = row?.input.draws
      return draws && 'forced' in draws ? (draws.forced[row.written + step] ?? 0n) : 0n
    })
    return { forced: { data: BigInt64Array.from(forced), shape } }
  }
  const uniforms = places.map(({ row, step }) => {
    const draws = row?.input.draws
    return draws && 'uniforms' in draws ? (draws.uniforms[row.written + step] ?? 0) : 0
  })
  return { uniforms: { data: Float32Array.from(uniforms), shape } }
}

function joinIds(parts: readonly BigInt64Array[]): BigInt64Array {
  return BigInt64Array.from(parts.flatMap((part) => [...part]))
}

export function joinFloats(parts: readonly Float32Array[]): Float32Array {
  const [only, ...others] = parts
  if (only && others.length === 0) return only
  const all = new Float32Array(parts.reduce((sum, { length }) => sum + length, 0))
  let offset = 0
  for (const part of parts) {
    all.set(part, offset)
    offset += part.length
  }
  return all
}
