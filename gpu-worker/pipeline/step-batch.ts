import type { AutoregressiveConfig } from '../model/config.ts'
import type { Device, DeviceDtype } from '../onnxruntime/backend.ts'
import type { ChunkResult, DecoderBatch } from './decoder-batch.ts'
import { createRow, FILLER, joinFloats, noteRun, toFeeds, tokensOf } from './decoder-rows.ts'
import type { DecoderRow } from './decoder-rows.ts'
import { takeFloats } from './outputs.ts'
import { createPlacedCache } from './placed-cache.ts'
import type { BoundRun, Feeds, SessionOptions } from './session.ts'

/**
 * Follows several pictures through a decoder that writes its cache in place (`buildStepDecoder`). Each picture has its own
 * rows of the cache from its prompt to its end, whoever comes and goes beside it; nothing is copied, but when a picture
 * comes that needs more room than all before.
 *
 * @param options.rowCount as for `createDecoderBatch`
 */
export function createStepBatch(
  device: Device,
  config: AutoregressiveConfig,
  options: SessionOptions & Form & { rowCount: number; dtype: DeviceDtype },
): DecoderBatch {
  const { rowCount } = options
  const rows = Array.from({ length: rowCount }, (): DecoderRow | null => null)
  const cache = createPlacedCache(device, config, options)
  const results = createResults(rowCount, options)
  const names = options.withLogits ? ['logits'] : []
  const keepOnly = (staying: readonly DecoderRow[]) => {
    for (const [place, row] of rows.entries()) {
      if (row && !staying.includes(row)) rows[place] = null
    }
  }
  const step = async (binding: BoundRun, own: readonly DecoderRow[], into: Feeds) => {
    const made = { ...(await binding.run(toFeeds(config, own, 1), names)), ...copyOf(into) }
    noteRun(own, 1, made)
    return made
  }
  return {
    async read(row, count, staying) {
      keepOnly(staying)
      const place = rows.indexOf(null)
      if (place < 0) throw new Error(`the batch has no room beside ${rowCount} rows`)
      rows[place] = row
      await cache.reserve(row.input.rotary.count)
      const into = createResults(1, options)
      const binding = cache.bindRow(place, into)
      try {
        return toChunk(await repeat(count, () => step(binding, [row], into)), [0])
      } finally {
        binding.release()
      }
    },
    async write(going, count) {
      keepOnly(going)
      const places = going.map((row) => rows.indexOf(row))
      if (places.includes(-1)) throw new Error('a row was written before its prompt was read')
      const binding = cache.bindAll(results)
      // Fillers begin anew with every step, in places where nobody's tokens are.
      const all = () => rows.map((row) => row ?? createRow(FILLER))
      return toChunk(await repeat(count, () => step(binding, all(), results)), places)
    },
  }
}

/** What the graph was built to give. */
interface Form {
  /** The probability of the tokens that each was drawn from. */
  withMass: boolean
  withLogits: boolean
}

/** Where every step leaves its results; the next one writes over them. */
function createResults(rowCount: number, { withMass }: Form): Feeds {
  const shape = [1, rowCount]
  return {
    tokens: { data: new BigInt64Array(rowCount), shape },
    ...(withMass && { mass: { data: new Float32Array(rowCount), shape } }),
  }
}

function copyOf(results: Feeds): Feeds {
  return Object.fromEntries(
    Object.entries(results).map(([name, { data, shape }]) => [name, { data: data.slice(), shape }]),
  )
}

async function repeat(count: number, run: () => Promise<Feeds>): Promise<Feeds[]> {
  const results: Feeds[] = []
  for (let index = 0; index < count; index += 1) results.push(await run())
  return results
}

/** @param places of the rows in question in each result */
function toChunk(results: readonly Feeds[], places: readonly number[]): ChunkResult {
  const rows = places.map((place) => ({
    tokens: results.map((result) => tokensOf(result)[place] ?? 0n),
    isFinite: results.every(({ mass }) => !mass || Number.isFinite(Number(mass.data[place]))),
  }))
  const [first, ...others] = results.flatMap(({ logits }) => logits ?? [])
  if (!first) return { rows, promptLogits: null, stepLogits: null }
  const data = joinFloats(others.map((logits) => takeFloats({ logits }, 'logits')))
  const [batch = 0, , vocabulary = 0] = first.shape
  return {
    rows,
    promptLogits: first,
    stepLogits: { data, shape: [others.length, batch, vocabulary] },
  }
}
