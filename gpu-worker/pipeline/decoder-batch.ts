import type { AutoregressiveConfig } from '../model/config.ts'
import { keepRows, packCaches } from './decoder-cache.ts'
import type { CacheShape, DecoderCache } from './decoder-cache.ts'
import { createRow, FILLER, noteRun, toFeeds } from './decoder-rows.ts'
import type { DecoderRow } from './decoder-rows.ts'
import type { Feeds, HostTensor, Session } from './session.ts'

export interface ChunkResult {
  /** By row: the tokens written, and whether they were drawn from finite numbers. */
  rows: { tokens: bigint[]; isFinite: boolean }[]
  /** Present when the graph was built with logits. */
  promptLogits: HostTensor | null
  stepLogits: HostTensor | null
}

export interface DecoderBatch {
  /**
   * Reads the prompt of a new row, alone, and writes its first `count` tokens.
   *
   * @param staying the rows of the last call that will go on; the others have left
   */
  read(row: DecoderRow, count: number, staying: readonly DecoderRow[]): Promise<ChunkResult>
  /** Writes the next `count` tokens of every row. A row that was in the last call and is not in this one has left. */
  write(rows: readonly DecoderRow[], count: number): Promise<ChunkResult>
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
    const steps = { data: BigInt64Array.of(BigInt(count - 1)), shape: [] }
    const results = await session.run({ ...toFeeds(config, rows, count), steps, ...cache.feeds })
    const tokens = noteRun(rows, count, results)
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
