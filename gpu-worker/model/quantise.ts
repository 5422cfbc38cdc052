import { mkdir, open, rename, rm } from 'node:fs/promises'
import type { FileHandle } from 'node:fs/promises'
import { dirname } from 'node:path'
import type { Checkpoint } from './checkpoint.ts'
import { FORMAT, quantisedPath } from './quantised.ts'
import type { TensorRef } from './safetensors.ts'
import { readTensor } from './tensor-data.ts'

/** The matrices that every token passes. The head keeps its precision: it is small and decides alone. */
const MATRICES =
  /^model\.language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate_up|down)_proj)\.weight$/

/** If nothing is said: 16 MB as they are read, 4 as they are written. */
const SLAB = 2 ** 22

/** The middle of an unsigned byte, which stands for 0. */
const ZERO = 128
const LARGEST = 127

export interface QuantiseReport {
  path: string
  tensors: number
  bytes: number
}

/**
 * Writes the matrices of the writer's layers in 8 bits, by blocks of a row: each block has a scale, its largest size / 127,
 * and every number is rounded to the nearest multiple of it. A few rows are held at a time. The file appears whole or not at
 * all; one that is there is replaced.
 *
 * @param options.onProgress told of the numbers done and of all
 * @throws CheckpointError when the weights are not floating point
 */
export async function quantiseWeights(
  checkpoint: Checkpoint,
  options: {
    blockSize: number
    /** Numbers that are held at once; rows are not divided. */
    slab?: number
    signal?: AbortSignal
    onProgress?: (done: number, total: number) => void
  },
): Promise<QuantiseReport> {
  const { blockSize, slab = SLAB, signal, onProgress = () => {} } = options
  const index = await checkpoint.tensors('vision_language_encoder')
  const matrices = index
    .names()
    .filter((name) => MATRICES.test(name))
    .map((name) => toMatrix(index.get(name), blockSize))
  const path = quantisedPath(checkpoint.dir)
  const { header, bytes } = planFile(matrices, {
    format: FORMAT,
    block_size: String(blockSize),
    source_sha256: await checkpoint.tensorsHash('vision_language_encoder'),
  })
  await mkdir(dirname(path), { recursive: true })
  const part = `${path}.part`
  const handle = await open(part, 'w')
  try {
    await handle.write(header)
    const total = matrices.reduce((sum, { rows, columns }) => sum + rows * columns, 0)
    let done = 0
    for (const matrix of matrices) {
      for await (const count of writeMatrix(handle, matrix, { base: header.length, slab })) {
        signal?.throwIfAborted()
        done += count
        onProgress(done, total)
      }
    }
    await handle.sync()
  } catch (error) {
    await rm(part, { force: true })
    throw error
  } finally {
    await handle.close()
  }
  await rename(part, path)
  return { path, tensors: matrices.length, bytes: header.length + bytes }
}

interface Matrix {
  ref: TensorRef
  rows: number
  columns: number
  blockSize: number
  blocks: number
  /** From the end of the header; set by `planFile`. */
  valuesAt: number
  scalesAt: number
}

function toMatrix(ref: TensorRef, blockSize: number): Matrix {
  const [rows = 0, columns = 0] = ref.shape
  const blocks = Math.ceil(columns / blockSize)
  return { ref, rows, columns, blockSize, blocks, valuesAt: 0, scalesAt: 0 }
}

/** The header of the file, and where each part of it comes. */
function planFile(
  matrices: readonly Matrix[],
  metadata: Record<string, string>,
): { header: Buffer; bytes: number } {
  const entries: Record<string, unknown> = { __metadata__: metadata }
  let offset = 0
  const place = (name: string, dtype: string, shape: number[], bytes: number) => {
    entries[name] = { dtype, shape, data_offsets: [offset, offset + bytes] }
    offset += bytes
    return offset - bytes
  }
  // Floats first: they then lie at multiples of their size.
  for (const matrix of matrices) {
    const { ref, rows, blocks } = matrix
    matrix.scalesAt = place(`${ref.name}.scales`, 'F32', [rows, blocks], 4 * rows * blocks)
  }
  for (const matrix of matrices) {
    const { ref, rows, blocks, blockSize } = matrix
    const shape = [rows, blocks, blockSize]
    matrix.valuesAt = place(`${ref.name}.values`, 'U8', shape, rows * blocks * blockSize)
  }
  const text = JSON.stringify(entries)
  const json = Buffer.from(text.padEnd(Math.ceil(text.length / 8) * 8))
  const prefix = Buffer.alloc(8)
  prefix.writeBigUInt64LE(BigInt(json.length))
  return { header: Buffer.concat([prefix, json]), bytes: offset }
}

/** Writes one matrix; yields how many numbers each part of it had. */
async function* writeMatrix(
  handle: FileHandle,
  matrix: Matrix,
  { base, slab }: { base: number; slab: number },
): AsyncGenerator<number> {
  const { ref, rows, columns, blocks, blockSize } = matrix
  const bytesPerNumber = ref.length / (rows * columns)
  const rowsAtOnce = Math.max(1, Math.floor(slab / columns))
  for (let row = 0; row < rows; row += rowsAtOnce) {
    const count = Math.min(rowsAtOnce, rows - row)
    const numbers = await readTensor({
      ...ref,
      shape: [count, columns],
      offset: ref.offset + row * columns * bytesPerNumber,
      length: count * columns * bytesPerNumber,
    })
    const { values, scales } = quantiseRows(numbers, { columns, blockSize })
    const valuesAt = base + matrix.valuesAt + row * blocks * blockSize
    await handle.write(values, 0, values.length, valuesAt)
    const bytes = new Uint8Array(scales.buffer)
    await handle.write(bytes, 0, bytes.length, base + matrix.scalesAt + 4 * row * blocks)
    yield count * columns
  }
}

/**
 * Rows of numbers in 8 bits: number = (value - 128) * scale of its block. What is missing to a whole block is 0.
 *
 * @param numbers float32 [rows, columns]
 * @returns `values` [rows, blocks, block size], `scales` [rows, blocks]
 */
export function quantiseRows(
  numbers: Float32Array,
  { columns, blockSize }: { columns: number; blockSize: number },
): { values: Uint8Array; scales: Float32Array } {
  const rows = numbers.length / columns
  const blocks = Math.ceil(columns / blockSize)
  const values = new Uint8Array(rows * blocks * blockSize).fill(ZERO)
  const scales = new Float32Array(rows * blocks)
  for (let block = 0; block < rows * blocks; block += 1) {
    const row = Math.floor(block / blocks)
    const start = (block % blocks) * blockSize
    const count = Math.min(blockSize, columns - start)
    const from = row * columns + start
    let largest = 0
    for (let index = 0; index < count; index += 1) {
      largest = Math.max(largest, Math.abs(numbers[from + index] ?? 0))
    }
    const scale = Math.fround(largest / LARGEST)
    scales[block] = scale
    if (scale === 0) continue
    for (let index = 0; index < count; index += 1) {
      values[block * blockSize + index] = ZERO + Math.round((numbers[from + index] ?? 0) / scale)
    }
  }
  return { values, scales }
}
