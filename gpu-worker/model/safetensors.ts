import { open, readdir, realpath } from 'node:fs/promises'
import type { FileHandle } from 'node:fs/promises'
import { isAbsolute, join, normalize } from 'node:path'

import { CheckpointError } from './checkpoint-error.ts'
import { isRecord, parseJson, readJsonObject } from './json-file.ts'

/** Element types as a safetensors header spells them. */
export type TensorDtype =
  'F64' | 'F32' | 'F16' | 'BF16' | 'I64' | 'I32' | 'I16' | 'I8' | 'U8' | 'BOOL'

/** Where one tensor's bytes lie: `file` is a real path (no symlink left), offset and length in bytes. */
export interface TensorRef {
  readonly name: string
  readonly dtype: TensorDtype
  readonly shape: readonly number[]
  readonly file: string
  readonly offset: number
  readonly length: number
}

/** One file of an index: its real path, size in bytes and raw header text. */
export interface TensorFile {
  readonly file: string
  readonly sizeBytes: number
  readonly header: string
}

export interface TensorIndex {
  /** @throws CheckpointError when the checkpoint has no such tensor, or one of an unknown element type */
  get(name: string): TensorRef
  has(name: string): boolean
  /** All that `get` gives, in the order of the files. */
  names(): string[]
  /** The files behind the index, sorted by their name in the folder. */
  readonly files: readonly TensorFile[]
}

/** Graphs ask for some tensors only: a strange one among the others does no harm. */
interface StrangeTensor {
  readonly name: string
  readonly problem: string
}

type Entry = TensorRef | StrangeTensor

const BYTES_PER_ELEMENT: Record<TensorDtype, number> = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U8: 1,
  BOOL: 1,
}

/** The format's own limit on the JSON header. */
const MAX_HEADER_BYTES = 100_000_000
const INDEX_SUFFIX = '.safetensors.index.json'

/**
 * Reads the headers of one folder's safetensors files; tensor data stays on disk.
 *
 * A `*.safetensors.index.json` decides which shards are read; without one every `*.safetensors` file of the
 * folder is. Symlinked files (hub caches) are resolved, so `file` can be opened from anywhere. Every offset is
 * checked against the file size, so a truncated download is found here and not in the middle of an image.
 *
 * @throws CheckpointError naming the file, and the tensor where one is at fault
 */
export async function openTensors(dir: string): Promise<TensorIndex> {
  const { shards, weightMap, source } = await listShards(dir)
  const tensors = new Map<string, Entry>()
  const files: TensorFile[] = []
  for (const shard of shards) {
    const opened = await readHeader(join(dir, shard))
    files.push(opened.file)
    for (const tensor of opened.tensors) {
      const owner = weightMap?.get(tensor.name)
      if (weightMap && owner !== shard) continue
      if (tensors.has(tensor.name)) {
        throw new CheckpointError(`${join(dir, shard)}: tensor ${tensor.name} is in two files`)
      }
      tensors.set(tensor.name, tensor)
    }
  }
  for (const [name, shard] of weightMap ?? []) {
    if (!tensors.has(name)) throw new CheckpointError(`${source}: ${shard} has no tensor ${name}`)
  }
  return toIndex(tensors, files, source)
}

/**
 * Reads the header of a single safetensors file.
 *
 * @throws CheckpointError as `openTensors` does
 */
export async function openTensorFile(path: string): Promise<TensorIndex> {
  const { file, tensors } = await readHeader(path)
  return toIndex(new Map(tensors.map((tensor) => [tensor.name, tensor])), [file], path)
}

function toIndex(
  tensors: ReadonlyMap<string, Entry>,
  files: readonly TensorFile[],
  source: string,
): TensorIndex {
  return {
    files,
    has: (name) => tensors.has(name),
    names: () => [...tensors].flatMap(([name, tensor]) => ('problem' in tensor ? [] : [name])),
    get(name) {
      const tensor = tensors.get(name)
      if (!tensor) throw new CheckpointError(`${source}: tensor ${name} is missing`)
      if ('problem' in tensor) throw new CheckpointError(tensor.problem)
      return tensor
    },
  }
}

interface ShardList {
  shards: string[]
  weightMap: Map<string, string> | null
  source: string
}

async function listShards(dir: string): Promise<ShardList> {
  let entries: string[]
  try {
    entries = await readdir(dir)
  } catch (cause) {
    throw new CheckpointError(`${dir}: folder cannot be read`, { cause })
  }
  const indexes = entries.filter((entry) => entry.endsWith(INDEX_SUFFIX)).sort()
  if (indexes.length > 1) {
    throw new CheckpointError(`${dir}: more than one ${INDEX_SUFFIX} file: ${indexes.join(', ')}`)
  }
  const indexName = indexes[0]
  if (indexName === undefined) {
    const shards = entries.filter((entry) => entry.endsWith('.safetensors')).sort()
    if (shards.length === 0) throw new CheckpointError(`${dir}: no .safetensors file`)
    return { shards, weightMap: null, source: dir }
  }
  const source = join(dir, indexName)
  const weightMap = (await readJsonObject(source))['weight_map']
  if (!isRecord(weightMap)) throw new CheckpointError(`${source}: weight_map is missing`)
  const map = new Map<string, string>()
  for (const [name, shard] of Object.entries(weightMap)) {
    if (typeof shard !== 'string' || isAbsolute(shard) || normalize(shard).startsWith('..')) {
      throw new CheckpointError(
        `${source}: weight_map.${name} must be a file name inside the folder`,
      )
    }
    map.set(name, shard)
  }
  return { shards: [...new Set(map.values())].sort(), weightMap: map, source }
}

async function readHeader(path: string): Promise<{ file: TensorFile; tensors: Entry[] }> {
  const file = await realpath(path).catch((cause: unknown) => {
    throw new CheckpointError(`${path}: file is missing or its link is broken`, { cause })
  })
  let handle: FileHandle | undefined
  try {
    handle = await open(file, 'r')
    return await parseHeader({ handle, path, file })
  } catch (cause) {
    if (cause instanceof CheckpointError) throw cause
    const reason = cause instanceof Error ? cause.message : String(cause)
    throw new CheckpointError(`${path}: cannot be read: ${reason}`, { cause })
  } finally {
    await handle?.close()
  }
}

async function parseHeader({
  handle,
  path,
  file,
}: {
  handle: FileHandle
  path: string
  file: string
}): Promise<{ file: TensorFile; tensors: Entry[] }> {
  const sizeBytes = (await handle.stat()).size
  const prefix = Buffer.alloc(8)
  if ((await handle.read(prefix, 0, 8, 0)).bytesRead !== 8) {
    throw new CheckpointError(`${path}: shorter than the 8 byte length of its header`)
  }
  const headerBytes = Number(prefix.readBigUInt64LE(0))
  if (headerBytes > MAX_HEADER_BYTES || 8 + headerBytes > sizeBytes) {
    throw new CheckpointError(
      `${path}: header length ${headerBytes} does not fit the file of ${sizeBytes} bytes`,
    )
  }
  const buffer = Buffer.alloc(headerBytes)
  await handle.read(buffer, 0, headerBytes, 8)
  const header = buffer.toString('utf8')
  const parsed = parseJson(header, path)
  if (!isRecord(parsed)) throw new CheckpointError(`${path}: header is not a JSON object`)
  const tensors = Object.entries(parsed)
    .filter(([name]) => name !== '__metadata__')
    .map(([name, entry]) => toEntry({ name, entry, path, file, base: 8 + headerBytes, sizeBytes }))
  return { file: { file, sizeBytes, header }, tensors }
}

function toEntry(input: {
  name: string
  entry: unknown
  path: string
  file: string
  base: number
  sizeBytes: number
}): Entry {
  const { name, entry, path, file, base, sizeBytes } = input
  const fail = (rule: string) => new CheckpointError(`${path}: tensor ${name}: ${rule}`)
  if (!isRecord(entry)) throw fail('entry is not an object')
  const { dtype, shape, data_offsets: offsets } = entry
  if (typeof dtype !== 'string') throw fail('dtype must be a text')
  if (!isTensorDtype(dtype))
    return { name, problem: fail(`element type ${dtype} is not supported`).message }
  if (!isIntegers(shape)) throw fail('shape must be a list of non-negative integers')
  if (!isIntegers(offsets) || offsets.length !== 2) throw fail('data_offsets must be two integers')
  const [begin = 0, end = 0] = offsets
  const expected = shape.reduce((product, size) => product * size, BYTES_PER_ELEMENT[dtype])
  if (end - begin !== expected) {
    throw fail(`${end - begin} bytes of data for ${expected} bytes of shape [${shape.join(', ')}]`)
  }
  if (base + end > sizeBytes) throw fail(`data ends at ${base + end}, the file at ${sizeBytes}`)
  return { name, dtype, shape, file, offset: base + begin, length: end - begin }
}

function isTensorDtype(value: string): value is TensorDtype {
  return Object.hasOwn(BYTES_PER_ELEMENT, value)
}

function isIntegers(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((item) => Number.isSafeInteger(item) && item >= 0)
}
