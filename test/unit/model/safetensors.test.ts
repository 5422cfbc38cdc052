import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { afterEach, beforeEach, expect, test } from 'vitest'

import { openTensors } from '../../../gpu-worker/model/safetensors.ts'
import { readTensor } from '../../../gpu-worker/model/tensor-data.ts'
import { toFloatBytes, writeSafetensors } from '../../support/safetensors.ts'

let dir: string
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'tensors-'))
})
afterEach(() => rm(dir, { recursive: true, force: true }))

const VALUES = Float32Array.of(0, 1, -2.5, 0.125, 65504, -0.0009765625)
const tensor = (name: string, dtype: 'F32' | 'F16' | 'BF16' = 'F32') => ({
  name,
  dtype,
  shape: [2, 3],
  bytes: toFloatBytes(VALUES, dtype),
})
const writeRaw = (header: string, data: Uint8Array = new Uint8Array(0), length = header.length) => {
  const prefix = Buffer.alloc(8)
  prefix.writeBigUInt64LE(BigInt(length))
  return writeFile(join(dir, 'a.safetensors'), Buffer.concat([prefix, Buffer.from(header), data]))
}
const messageOf = () =>
  openTensors(dir).then(
    () => 'opened',
    (error: Error) => error.message,
  )

test.each(['F32', 'F16', 'BF16'] as const)('%s values come back as float32', async (dtype) => {
  await writeSafetensors(join(dir, 'a.safetensors'), [
    tensor('first', dtype),
    tensor('second', dtype),
  ])
  const index = await openTensors(dir)
  expect(index.names()).toEqual(['first', 'second'])
  const read = await readTensor(index.get('second'))
  const tolerance = dtype === 'BF16' ? 2 ** -8 : 0
  read.forEach((value, at) => {
    expect(Math.abs(value - VALUES[at]!)).toBeLessThanOrEqual(Math.abs(VALUES[at]!) * tolerance)
  })
})

test('an index decides which shard a tensor is read from, and links are resolved', async () => {
  await writeSafetensors(join(dir, 'blob'), [tensor('a'), tensor('b')])
  await symlink(join(dir, 'blob'), join(dir, 'one.safetensors'))
  await writeSafetensors(join(dir, 'two.safetensors'), [tensor('b')], { pad: false })
  const map = { a: 'one.safetensors', b: 'two.safetensors' }
  await writeFile(join(dir, 'x.safetensors.index.json'), JSON.stringify({ weight_map: map }))
  const index = await openTensors(dir)
  expect(index.get('a').file).toMatch(/blob$/)
  expect(index.get('b').file).toMatch(/two\.safetensors$/)
  expect(index.files).toHaveLength(2)
})

test('one tensor of an unknown element type is refused when it is asked for, and no other', async () => {
  const entry = (dtype: string, begin: number, end: number) => ({
    dtype,
    shape: [1],
    data_offsets: [begin, end],
  })
  const header = JSON.stringify({ odd: entry('F4', 0, 1), plain: entry('F32', 1, 5) })
  await writeRaw(header, new Uint8Array(new Float32Array([0, 2.5]).buffer).slice(3))
  const index = await openTensors(dir)
  expect([...(await readTensor(index.get('plain')))]).toEqual([2.5])
  expect(index.names()).toEqual(['plain'])
  expect(index.has('odd')).toBe(true)
  expect(() => index.get('odd')).toThrow(
    /a\.safetensors: tensor odd: element type F4 is not supported/,
  )
})

const HEADER = (offsets: number[], shape: unknown = [1], dtype: unknown = 'F32') =>
  JSON.stringify({ w: { dtype, shape, data_offsets: offsets } })

test.each<[string, () => Promise<void>, RegExp]>([
  ['no file', async () => {}, /no \.safetensors file/],
  ['an empty file', () => writeFile(join(dir, 'a.safetensors'), ''), /a\.safetensors: shorter/],
  ['a header longer than the file', () => writeRaw('{}', undefined, 999), /header length 999/],
  ['a header that is not JSON', () => writeRaw('{{'), /not valid JSON/],
  ['a truncated tensor', () => writeRaw(HEADER([0, 4]), new Uint8Array(2)), /tensor w: data ends/],
  [
    'a shape that needs more bytes',
    () => writeRaw(HEADER([0, 4], [3]), new Uint8Array(4)),
    /\[3\]/,
  ],
  ['a negative size', () => writeRaw(HEADER([0, 4], [-1]), new Uint8Array(4)), /non-negative/],
  ['an element type that is no text', () => writeRaw(HEADER([0, 4], [1], 4)), /dtype must be/],
  [
    'a folder in the place of a file',
    async () => {
      await mkdir(join(dir, 'a.safetensors'))
    },
    /a\.safetensors: cannot be read: EISDIR/,
  ],
  [
    'a broken link',
    () => symlink(join(dir, 'nowhere'), join(dir, 'a.safetensors')),
    /a\.safetensors: file is missing or its link is broken/,
  ],
  [
    'an index that points outside the folder',
    () =>
      writeFile(
        join(dir, 'x.safetensors.index.json'),
        JSON.stringify({ weight_map: { w: '../b.safetensors' } }),
      ),
    /weight_map\.w must be a file name inside the folder/,
  ],
  [
    'an index that names a missing tensor',
    async () => {
      await writeSafetensors(join(dir, 'a.safetensors'), [tensor('a')])
      const map = JSON.stringify({ weight_map: { z: 'a.safetensors' } })
      await writeFile(join(dir, 'x.safetensors.index.json'), map)
    },
    /a\.safetensors has no tensor z/,
  ],
])('%s is refused with the reason', async (_name, prepare, reason) => {
  await prepare()
  expect(await messageOf()).toMatch(reason)
})
