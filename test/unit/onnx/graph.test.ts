import { mkdtemp, realpath, rm, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { openTensors } from '../../../gpu-worker/model/safetensors.ts'
import { createGraph } from '../../../gpu-worker/onnx/graph.ts'
import type { GraphBuilder } from '../../../gpu-worker/onnx/graph.ts'
import { linear } from '../../../gpu-worker/onnx/layers.ts'
import { openSession } from '../../../gpu-worker/pipeline/session.ts'
import { toFloatBytes, writeSafetensors } from '../../support/safetensors.ts'

let root: string
beforeAll(async () => {
  root = await realpath(await mkdtemp(join(tmpdir(), 'graph-')))
  const tensor = (name: string, shape: number[], dtype: 'F32' | 'BF16', values: number[]) => ({
    name,
    dtype,
    shape,
    bytes: toFloatBytes(Float32Array.from(values), dtype),
  })
  const tensors = [
    tensor('first.weight', [2, 3], 'F32', [1, 2, 3, 4, 5, 6]),
    tensor('first.bias', [2], 'BF16', [0.5, -0.5]),
  ]
  await writeSafetensors(join(root, 'blob'), tensors, { pad: false })
  await symlink(join(root, 'blob'), join(root, 'model.safetensors'))
})
afterAll(() => rm(root, { recursive: true, force: true }))

async function createLinearGraph(): Promise<GraphBuilder> {
  const g = createGraph({ name: 'test', tensors: await openTensors(root), compute: 'float32' })
  const x = g.input('x', 'float32', ['batch', 'rows', 3])
  const options = { name: 'first', inSize: 3, outSize: 2, bias: true, rank: 3 }
  g.output(linear(g, x, options), 'y', 'float32', ['batch', 'rows', 2])
  return g
}

test('weights are read in place through a link, at any byte offset and in mixed types', async () => {
  const session = await openSession((await createLinearGraph()).toBytes(), { threads: 1 })
  const data = Float32Array.of(1, 0, 0, 0, 1, 1)
  const { y } = await session.run({ x: { data, shape: [1, 2, 3] } })
  expect(y).toEqual({ data: Float32Array.of(1.5, 3.5, 5.5, 10.5), shape: [1, 2, 2] })
  await session.close()
})

test('the same graph has the same bytes', async () => {
  expect((await createLinearGraph()).toBytes()).toEqual((await createLinearGraph()).toBytes())
})

test('a weight of another shape and a missing one are refused by name', async () => {
  const g = createGraph({ name: 'test', tensors: await openTensors(root), compute: 'float32' })
  expect(() => g.weight('first.weight', { shape: [3, 2] })).toThrow(
    /first\.weight has shape \[2, 3\], expected \[3, 2\]/,
  )
  expect(() => g.weight('second.weight')).toThrow(/second\.weight/)
})

test('equal constants and weights asked for twice are stored once', async () => {
  const g = await createLinearGraph()
  expect(g.weight('first.bias')).toBe(g.weight('first.bias'))
  expect(g.constant([1, 2], 'int64', [2])).toBe(g.constant([1, 2], 'int64', [2]))
  expect(g.constant([1, 2], 'int64', [2])).not.toBe(g.constant([1, 2], 'int64', [1, 2]))
})

test('attributes and constants keep their sign and size, also inside the body of a loop', async () => {
  const g = createGraph({ name: 'loop', compute: 'float32' })
  const big = 2n ** 40n + 1n
  const step = g.constant([-3], 'int64', [])
  const body = g.subgraph('body', (b) => {
    b.input('i', 'int64', [])
    const goesOn = b.input('goes_on', 'bool', [])
    const carried = b.input('carried', 'int64', [])
    b.output(goesOn, 'goes_on_out', 'bool', [])
    b.output(b.op('Add', [carried, step]), 'carried_out', 'int64', [])
  })
  const start = g.constant(BigInt64Array.of(big), 'int64', [])
  const sum = g.op('Loop', [g.scalar(5, 'int64'), null, start], { body })
  g.output(sum, 'sum', 'int64', [])
  const half = g.op('LeakyRelu', [g.scalar(-1, 'float32')], { alpha: { float: -0.25 } })
  g.output(half, 'half', 'float32', [])
  const last = g.op('Transpose', [g.constant([1, 2, 3, 4, 5, 6], 'float32', [1, 2, 3])], {
    perm: [2, 0, 1],
  })
  g.output(g.op('Softmax', [last], { axis: -1 }), 'shape', 'float32', [3, 1, 2])
  const session = await openSession(g.toBytes(), { threads: 1 })
  const results = await session.run({})
  await session.close()
  expect(results.sum?.data[0]).toBe(big - 15n)
  expect(results.half?.data[0]).toBe(0.25)
  expect(results.shape?.shape).toEqual([3, 1, 2])
})
