import { writeFile } from 'node:fs/promises'

/** One tensor to write: raw little-endian bytes of `dtype` with `shape`. */
export interface TensorData {
  name: string
  dtype: 'F32' | 'F16' | 'BF16' | 'I64'
  shape: readonly number[]
  bytes: Uint8Array
}

/** Writes a safetensors file in the order given. `pad` aligns the header to 8 bytes, as common writers do. */
export async function writeSafetensors(
  path: string,
  tensors: readonly TensorData[],
  options: { pad?: boolean } = {},
): Promise<void> {
  const entries: Record<string, unknown> = {}
  let offset = 0
  for (const { name, dtype, shape, bytes } of tensors) {
    entries[name] = { dtype, shape, data_offsets: [offset, offset + bytes.length] }
    offset += bytes.length
  }
  let text = JSON.stringify(entries)
  if (options.pad ?? true) text = text.padEnd(Math.ceil(Buffer.byteLength(text) / 8) * 8, ' ')
  const header = Buffer.from(text)
  const prefix = Buffer.alloc(8)
  prefix.writeBigUInt64LE(BigInt(header.length))
  await writeFile(path, Buffer.concat([prefix, header, ...tensors.map((tensor) => tensor.bytes)]))
}

/** float32 numbers as raw bytes of another floating point type, rounded to nearest even. */
export function toFloatBytes(
  values: Float32Array,
  dtype: 'F32' | 'F16' | 'BF16',
): Uint8Array<ArrayBuffer> {
  if (dtype === 'F32') return new Uint8Array(Float32Array.from(values).buffer)
  const bits = new Uint32Array(Float32Array.from(values).buffer)
  const convert = dtype === 'BF16' ? toBrainBits : toHalfBits
  return new Uint8Array(Uint16Array.from(bits, convert).buffer)
}

function toBrainBits(bits: number): number {
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16
}

/** Values below the smallest normal half become zero; random test weights need no more. */
function toHalfBits(bits: number): number {
  const sign = (bits >>> 16) & 0x8000
  const magnitude = bits & 0x7fffffff
  const rounded = (magnitude + 0xfff + ((magnitude >>> 13) & 1)) >>> 13
  const half = rounded - ((127 - 15) << 10)
  if (half < 0x400) return sign
  return sign | Math.min(half, 0x7c00)
}
