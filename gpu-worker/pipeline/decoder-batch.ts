import type { AutoregressiveConfig } from '../model/config.ts'
import type { RotaryTable } from '../model/rope.ts'
import { rotaryRows } from '../model/rope.ts'
import { keepRows, packCaches } from './decoder-cache.ts'
import type { CacheShape, DecoderCache } from './decoder-cache.ts'
import type { Feeds, HostTensor, Session } from './session.ts'

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

export interface ChunkResult {
  /** By row: the tokens written, and whether they were drawn from finite numbers. */
  rows: { tokens: bigint[]; isFinite: boolean }[]
  /** Present when the graph was built with logits. */
  promptLogits: HostTensor | null
  stepLogits: HostTensor | null
}

export interface DecoderBatch {
  /** Reads the prompt of a new row, alone, and writes its first `count` tokens. */
  read(row: DecoderRow, count: number): Promise<ChunkResult>
  /** Writes the next `count` tokens of every row. A row that was in the last call and is not in this one has left. */
  write(rows: readonly DecoderRow[], count: number): Promise<ChunkResult>
}

export function createRow(input: RowInput): DecoderRow {
  const next = BigInt64Array.from(input.ids, BigInt)
  return { input, fed: 0, written: 0, next, cache: null }
}

/** Fills a batch up: a prompt of one token, whose writing is thrown away. */
const FILLER: RowInput = {
  ids: [0],
  rotary: { cos: new Float32Array(0), sin: new Float32Array(0), count: 0, size: 0 },
  draws: { uniforms: new Float32Array(0) },
}

/**
 * Follows several pictures through the decoder, each from its own place on: keeps their cache between runs, and lays it
 * anew only when a row has come or left. What a row is fed and draws from is its own, whoever stands beside it.
 *
 * @param rowCount every run of several rows, and of one, is filled up to so many: how products are split over threads and
 *   kernels depends on their shape, and with one shape a row's numbers do not depend on how many there are beside it
 */
export function createDecoderBatch(
  session: Session,
  config: AutoregressiveConfig,
  rowCount = 1,
): DecoderBatch {
  const shape: CacheShape = config
  const fillers = Array.from({ length: rowCount }, () => createRow(FILLER))
  let packed: { rows: readonly DecoderRow[]; cache: DecoderCache } | null = null
  const pack = (rows: readonly DecoderRow[]) =>
    packCaches(
      shape,
      rows.map((row) => {
        const place = row.cache ? 0 : (packed?.rows.indexOf(row) ?? -1)
        return { cache: row.cache ?? packed?.cache ?? null, place, length: row.fed }
      }),
    )
  const run = async (rows: readonly DecoderRow[], count: number, cache: DecoderCache) => {
    const results = await session.run(toFeeds(config, rows, count, cache))
    for (const row of rows) {
      row.fed += row.next.length + count - 1
      row.written += count
    }
    const tokens = results['tokens']?.data
    if (!(tokens instanceof BigInt64Array)) throw new Error('the decoder wrote no tokens')
    rows.forEach((row, place) => {
      const at = tokens.length - rows.length + place
      row.next = tokens.slice(at, at + 1)
    })
    return { results, chunk: toChunk(results, tokens, rows.length) }
  }
  return {
    async read(row, count) {
      const { results, chunk } = await run([row], count, packCaches(shape, []))
      row.cache = keepRows(shape, results)
      return chunk
    },
    async write(rows, count) {
      const all = [...rows, ...fillers.slice(0, Math.max(0, rowCount - rows.length))]
      // They begin anew with every run, so that they never look back at anything.
      for (const filler of fillers) Object.assign(filler, createRow(FILLER))
      const known = packed && isSame(packed.rows, all) ? packed.cache : pack(all)
      const { results, chunk } = await run(all, count, known)
      for (const row of rows) row.cache = null
      packed = { rows: all, cache: keepRows(shape, results) }
      return { ...chunk, rows: chunk.rows.slice(0, rows.length) }
    },
  }
}

function isSame(a: readonly DecoderRow[] | undefined, b: readonly DecoderRow[]): boolean {
  return a?.length === b.length && b.every((row, place) => row === a[place] && row.cache === null)
}

function toFeeds(
  config: AutoregressiveConfig,
  rows: readonly DecoderRow[],
  count: number,
  cache: DecoderCache,
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
    steps: { data: BigInt64Array.of(BigInt(count - 1)), shape: [] },
    ...toDraws(rows, count),
    ...cache.feeds,
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

function toChunk(results: Feeds, tokens: BigInt64Array, count: number): ChunkResult {
  const mass = results['mass']?.data
  const rows = Array.from({ length: count }, (_, place) => {
    const isOwn = (_value: unknown, index: number) => index % count === place
    const masses = mass instanceof Float32Array ? mass.filter(isOwn) : []
    return {
      tokens: Array.from(tokens.filter(isOwn)),
      isFinite: masses.every((value) => Number.isFinite(value)),
    }
  })
  return {
    rows,
    promptLogits: results['prompt_logits'] ?? null,
    stepLogits: results['step_logits'] ?? null,
  }
}

function joinIds(parts: readonly BigInt64Array[]): BigInt64Array {
  return BigInt64Array.from(parts.flatMap((part) => [...part]))
}

function joinFloats(parts: readonly Float32Array[]): Float32Array {
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
