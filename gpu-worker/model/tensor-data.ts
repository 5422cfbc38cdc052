import { open } from 'node:fs/promises'

import { CheckpointError } from './checkpoint-error.ts'
import type { TensorIndex, TensorRef } from './safetensors.ts'

/**
 * Reads one tensor's raw little-endian bytes.
 *
 * @throws CheckpointError when the file is shorter than the header said
 */
export async function readTensorBytes(ref: TensorRef): Promise<Uint8Array> {
  const handle = await open(ref.file, 'r')
  try {
    const bytes = new Uint8Array(ref.length)
    const { bytesRead } = await handle.read(bytes, 0, ref.length, ref.offset)
    if (bytesRead !== ref.length) {
      throw new CheckpointError(
        `${ref.file}: tensor ${ref.name} ends after ${bytesRead} of ${ref.length} bytes`,
      )
    }
    return bytes
  } finally {
    await handle.close()
  }
}

/**
 * Reads one floating point tensor (F32, F16 or BF16) widened to float32, row-major.
 *
 * @throws CheckpointError for other element types
 */
export async function readTensor(ref: TensorRef): Promise<Float32Array> {
  const bytes = await readTensorBytes(ref)
  if (ref.dtype === 'F32') return new Float32Array(bytes.buffer, 0, ref.length / 4)
  if (ref.dtype === 'F16') return Float32Array.from(new Uint16Array(bytes.buffer), halfToFloat)
  if (ref.dtype === 'BF16') {
    const words = Uint32Array.from(new Uint16Array(bytes.buffer), (half) => half << 16)
    return new Float32Array(words.buffer)
  }
  throw new CheckpointError(
    `${ref.file}: tensor ${ref.name} has type ${ref.dtype}, expected F32, F16 or BF16`,
  )
}

/**
 * Reads one integer tensor (I64 or I32) as numbers.
 *
 * @throws CheckpointError for other element types
 */
export async function readIntegers(ref: TensorRef): Promise<number[]> {
  const bytes = await readTensorBytes(ref)
  if (ref.dtype === 'I64') return Array.from(new BigInt64Array(bytes.buffer), Number)
  if (ref.dtype === 'I32') return Array.from(new Int32Array(bytes.buffer))
  throw new CheckpointError(
    `${ref.file}: tensor ${ref.name} has type ${ref.dtype}, expected I64 or I32`,
  )
}

/** Windows per tensor, spread from its first to its last byte, and the size of one. */
const SAMPLE_COUNT = 4
const SAMPLE_BYTES = 16_384

/**
 * A bounded part of every tensor's bytes, in the order of the files: all of a small one, 64 KiB of a large one. Enough
 * to tell two trainings of one architecture apart, and 121 MB of the published 36 GB.
 */
export async function* sampleTensors(index: TensorIndex): AsyncGenerator<Uint8Array> {
  const tensors = index.names().map((name) => index.get(name))
  for (const { file } of index.files) {
    const handle = await open(file, 'r')
    try {
      for (const ref of tensors.filter((tensor) => tensor.file === file)) {
        for (const { start, length } of sampleWindows(ref.length)) {
          const bytes = new Uint8Array(length)
          const { bytesRead } = await handle.read(bytes, 0, length, ref.offset + start)
          yield bytes.subarray(0, bytesRead)
        }
      }
    } finally {
      await handle.close()
    }
  }
}

function sampleWindows(length: number): { start: number; length: number }[] {
  if (length <= SAMPLE_COUNT * SAMPLE_BYTES) return [{ start: 0, length }]
  const last = length - SAMPLE_BYTES
  return Array.from({ length: SAMPLE_COUNT }, (_, index) => ({
    start: Math.floor((last * index) / (SAMPLE_COUNT - 1)),
    length: SAMPLE_BYTES,
  }))
}

function halfToFloat(half: number): number {
  const sign = half & 0x8000 ? -1 : 1
  const exponent = (half >> 10) & 0x1f
  const fraction = half & 0x3ff
  if (exponent === 0) return sign * fraction * 2 ** -24
  if (exponent === 31) return fraction ? NaN : sign * Infinity
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15)
}
