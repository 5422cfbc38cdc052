import { cp, mkdir, mkdtemp, open, readdir, rename, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { openTensors } from '../../gpu-worker/model/safetensors.ts'
import { readTensor } from '../../gpu-worker/model/tensor-data.ts'
import { toFloatBytes, writeSafetensors } from './safetensors.ts'
import type { TensorData } from './safetensors.ts'

const TENSOR_FOLDERS = ['vision_language_encoder', 'transformer', 'vae', 'text_encoder']

export interface CheckpointCopies {
  /** A copy whose weights are stored in another element type. */
  convert(source: string, dtype: 'F32' | 'F16' | 'BF16'): Promise<string>
  /** A copy in three shards per folder with an index, laid out like a hub cache: every file a link to a blob. */
  shard(source: string): Promise<string>
  /** A plain copy. */
  copy(source: string): Promise<string>
  /** A copy in which every element of one float32 tensor is `value`. */
  fill(source: string, folder: string, tensor: string, value: number): Promise<string>
  /** A copy in which one row of a float32 table is `value`. */
  fillRow(
    source: string,
    place: { folder: string; tensor: string; row: number },
    value: number,
  ): Promise<string>
  /** A copy without the tensors whose names match. */
  drop(source: string, folder: string, pattern: RegExp): Promise<string>
  remove(): Promise<void>
}

/** Makes variants of a checkpoint in a temporary folder. */
export async function createCheckpointCopies(): Promise<CheckpointCopies> {
  const root = await mkdtemp(join(tmpdir(), 'checkpoint-'))
  let count = 0
  const copy = async (source: string) => {
    count += 1
    const target = join(root, String(count))
    await cp(source, target, { recursive: true })
    return target
  }
  return {
    copy,
    async convert(source, dtype) {
      const target = await copy(source)
      for (const folder of TENSOR_FOLDERS) {
        const tensors = await readAll(join(source, folder), dtype)
        const file = await removeWeights(join(target, folder))
        await writeSafetensors(join(target, folder, file), tensors)
      }
      return target
    },
    async shard(source) {
      const target = await copy(source)
      for (const folder of TENSOR_FOLDERS) await shardFolder(join(target, folder), root)
      return target
    },
    async fill(source, folder, tensor, value) {
      const target = await copy(source)
      const { file, offset, length } = (await openTensors(join(target, folder))).get(tensor)
      const handle = await open(file, 'r+')
      const bytes = new Uint8Array(new Float32Array(length / 4).fill(value).buffer)
      await handle.write(bytes, 0, bytes.length, offset)
      await handle.close()
      return target
    },
    async fillRow(source, { folder, tensor, row }, value) {
      const target = await copy(source)
      const { file, offset, shape } = (await openTensors(join(target, folder))).get(tensor)
      const size = shape.at(-1) ?? 0
      const bytes = new Uint8Array(new Float32Array(size).fill(value).buffer)
      const handle = await open(file, 'r+')
      await handle.write(bytes, 0, bytes.length, offset + row * bytes.length)
      await handle.close()
      return target
    },
    async drop(source, folder, pattern) {
      const target = await copy(source)
      const tensors = await readAll(join(source, folder), 'F32')
      const file = await removeWeights(join(target, folder))
      const kept = tensors.filter(({ name }) => !pattern.test(name))
      await writeSafetensors(join(target, folder, file), kept)
      return target
    },
    remove: () => rm(root, { recursive: true, force: true }),
  }
}

async function readAll(dir: string, dtype: 'F32' | 'F16' | 'BF16'): Promise<TensorData[]> {
  const index = await openTensors(dir)
  return Promise.all(
    index.names().map(async (name) => {
      const ref = index.get(name)
      const bytes = toFloatBytes(await readTensor(ref), dtype)
      return { name, dtype, shape: ref.shape, bytes }
    }),
  )
}

async function removeWeights(dir: string): Promise<string> {
  const files = (await readdir(dir)).filter((file) => file.includes('.safetensors'))
  for (const file of files) await rm(join(dir, file))
  return files.find((file) => file.endsWith('.safetensors')) ?? 'model.safetensors'
}

async function shardFolder(dir: string, root: string): Promise<void> {
  const blobs = join(root, 'blobs')
  await mkdir(blobs, { recursive: true })
  const tensors = await readAll(dir, 'F32')
  await removeWeights(dir)
  const weightMap: Record<string, string> = {}
  for (const shard of [0, 1, 2]) {
    const own = tensors.filter((_, index) => index % 3 === shard)
    const file = `model-0000${shard + 1}-of-00003.safetensors`
    // Without padding the data starts at any byte, as the format allows.
    await writeSafetensors(join(dir, file), own, { pad: false })
    const blob = join(blobs, `${dir.replaceAll('/', '-')}-${shard}`)
    await rename(join(dir, file), blob)
    await symlink(blob, join(dir, file))
    for (const { name } of own) weightMap[name] = file
  }
  const index = JSON.stringify({ metadata: {}, weight_map: weightMap })
  await writeFile(join(dir, 'model.safetensors.index.json'), index)
}
