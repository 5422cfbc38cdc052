import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { afterEach, beforeEach, expect, test } from 'vitest'

import { openTensors } from '../../../gpu-worker/model/safetensors.ts'
import { addGroupNorm } from '../../../gpu-worker/model/vae-layers.ts'
import { createGraph } from '../../../gpu-worker/onnx/graph.ts'
import { openSession } from '../../../gpu-worker/pipeline/session.ts'
import { toFloatBytes, writeSafetensors } from '../../support/safetensors.ts'

let dir: string
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'vae-'))
})
afterEach(() => rm(dir, { recursive: true, force: true }))

/** Away from zero, so that rounding in the mean shows, and cheap: there are millions. */
function createPlanes(count: number): Float32Array {
  const planes = new Float32Array(count)
  let state = 12_345
  for (let index = 0; index < count; index += 1) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    planes[index] = 3 + 5 * (state / 2 ** 32 - 0.5)
  }
  return planes
}

test('a norm over 17 million elements, as in the last block of a large picture, is exact to 1e-5', async () => {
  const [channels, groups, rows, columns] = [16, 1, 1024, 1056]
  const perChannel = (value: (channel: number) => number) =>
    Float32Array.from({ length: channels }, (_, channel) => value(channel))
  const weight = perChannel((channel) => 1 + 0.1 * Math.sin(channel))
  const bias = perChannel((channel) => 0.3 * Math.cos(channel))
  await writeSafetensors(join(dir, 'a.safetensors'), [
    { name: 'n.weight', dtype: 'F32', shape: [channels], bytes: toFloatBytes(weight, 'F32') },
    { name: 'n.bias', dtype: 'F32', shape: [channels], bytes: toFloatBytes(bias, 'F32') },
  ])
  const g = createGraph({ name: 'norm', tensors: await openTensors(dir), compute: 'float32' })
  const shape = [1, channels, 'rows', 'columns']
  const normal = addGroupNorm(g, g.input('x', 'float32', shape), { name: 'n', channels, groups })
  g.output(normal, 'y', 'float32', shape)
  const session = await openSession(g.toBytes(), { threads: 2 })
  const x = createPlanes(channels * rows * columns)
  const { y } = await session.run({ x: { data: x, shape: [1, channels, rows, columns] } })
  await session.close()

  const actual = y!.data as Float32Array
  const area = rows * columns
  const size = (channels / groups) * area
  let largest = 0
  for (let start = 0; start < x.length; start += size) {
    let sum = 0
    for (let index = start; index < start + size; index += 1) sum += x[index]!
    const mean = sum / size
    let squares = 0
    for (let index = start; index < start + size; index += 1) squares += (x[index]! - mean) ** 2
    const deviation = Math.sqrt(squares / size + 1e-6)
    for (let index = start; index < start + size; index += 1) {
      const channel = Math.floor(index / area)
      const expected = ((x[index]! - mean) / deviation) * weight[channel]! + bias[channel]!
      largest = Math.max(largest, Math.abs(actual[index]! - expected))
    }
  }
  expect(largest).toBeLessThan(1e-5)
})
