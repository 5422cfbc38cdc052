import { expect, test } from 'vitest'

import { transformerSchema } from '../../../gpu-worker/model/config.ts'
import { joinCaches } from '../../../gpu-worker/pipeline/source-cache.ts'
import { requireRoom } from '../../../gpu-worker/pipeline/source-reader.ts'

test('images whose keys and values do not fit the machine are refused with both sizes', () => {
  const published = { transformer: transformerSchema.parse({}) }
  const source = { grid: { rows: 32, columns: 32 } }
  expect(() => requireRoom(published, [source, source], 8e9)).toThrow(
    'the images need 8.1 GB of memory, 8.0 GB available',
  )
  requireRoom(published, [source, source], 8.1e9)
  requireRoom(published, [source], 4.1e9)
})

test('several images stand one after another in every layer, and their parts are given up', () => {
  const config = transformerSchema.parse({
    num_layers: 2,
    num_attention_heads: 1,
    attention_head_dim: 4,
  })
  const partOf = (first: number, tokens: number) =>
    Object.fromEntries(
      ['source_key_0', 'source_value_0', 'source_key_1', 'source_value_1'].map((name, index) => [
        name,
        {
          data: new Float32Array(tokens * 4).fill(first + index),
          shape: [1, tokens, 4],
        },
      ]),
    )
  const parts = [partOf(10, 1), partOf(20, 2)]
  const joined = joinCaches(parts, config)
  expect(joined['source_value_1']?.shape).toEqual([1, 3, 4])
  expect([...joined['source_value_1']!.data]).toEqual([
    ...Array<number>(4).fill(13),
    ...Array<number>(8).fill(23),
  ])
  expect(parts).toEqual([{}, {}])
})
