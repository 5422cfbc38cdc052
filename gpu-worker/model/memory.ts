import os from 'node:os'

import { TENSOR_FOLDERS } from './checkpoint.ts'
import type { Checkpoint, TensorFolder } from './checkpoint.ts'
import { CheckpointError } from './checkpoint-error.ts'
import type { QuantisedWeights } from './quantised.ts'
import type { TensorRef } from './safetensors.ts'

/** What is opened together: everything that a picture out of text needs, or what reads condition images. */
type Part = 'text' | 'images'

/** What the graphs of the second part take, and those of the first do not. */
const OF_IMAGES: Partial<Record<TensorFolder, RegExp>> = {
  vision_language_encoder: /^model\.(visual|vqmodel)\./,
  vae: /^encoder\./,
}

/** Whether the graphs of a part take a tensor. */
export function isOfPart(folder: TensorFolder, name: string, part: Part): boolean {
  return (OF_IMAGES[folder]?.test(name) === true) === (part === 'images')
}

/** Tables of which a few rows are taken in the type of the file, and what no graph takes at all. */
const NEVER_WIDENED: Partial<Record<TensorFolder, RegExp>> = {
  vision_language_encoder: /\.(embed_tokens|position_embedding|post_quant_conv)\./,
}

/**
 * Refuses a checkpoint whose weights would not fit into memory on a processor. Float32 weights stay mapped from
 * their files; half precision ones are widened when they are opened, into private copies of twice their size, and
 * the system would end the process in the middle of that without a word.
 *
 * @throws CheckpointError stating both sizes
 */
export async function requireMemory(
  checkpoint: Checkpoint,
  options: {
    part?: Part
    folders?: readonly TensorFolder[]
    availableBytes?: number
    /** Stands in for matrices of the checkpoint, and is laid out anew when it is opened. */
    quantised?: QuantisedWeights
  } = {},
): Promise<void> {
  const { part = 'text', folders, availableBytes = readAvailableBytes(), quantised } = options
  const ownBytes = (quantised?.tensors.files ?? []).reduce((sum, file) => sum + file.sizeBytes, 0)
  const needed = ownBytes + (await widenedBytes(checkpoint, part, folders, quantised))
  if (needed <= availableBytes) return
  const gigabytes = (bytes: number) => (bytes / 1e9).toFixed(1)
  throw new CheckpointError(
    `${checkpoint.dir}: needs ${gigabytes(needed)} GB of memory for its weights ${PURPOSES[part]}in float32, ` +
      `${gigabytes(availableBytes)} GB available`,
  )
}

const PURPOSES: Record<Part, string> = { text: '', images: 'for reading images ' }

/**
 * What a picture out of text needs of the weights: the checkpoint's tensors but for those that have others in 8 bits to stand
 * in for them, and these.
 */
export async function neededTensors(
  checkpoint: Checkpoint,
  quantised?: QuantisedWeights,
): Promise<{ folder: TensorFolder; ref: TensorRef }[]> {
  const needed: { folder: TensorFolder; ref: TensorRef }[] = []
  for (const folder of TENSOR_FOLDERS) {
    const tensors = await checkpoint.tensors(folder)
    for (const name of tensors.names()) {
      const isReplaced = quantised?.tensors.has(`${name}.values`) ?? false
      if (isOfPart(folder, name, 'text') && !isReplaced) {
        needed.push({ folder, ref: tensors.get(name) })
      }
    }
  }
  const { tensors } = quantised ?? {}
  for (const name of tensors?.names() ?? []) {
    if (tensors) needed.push({ folder: 'vision_language_encoder', ref: tensors.get(name) })
  }
  return needed
}

/** Size of the float32 copies that opening every stage of a part on a processor makes. */
export async function widenedBytes(
  checkpoint: Checkpoint,
  part: Part = 'text',
  folders: readonly TensorFolder[] = TENSOR_FOLDERS,
  quantised?: QuantisedWeights,
): Promise<number> {
  let bytes = 0
  for (const folder of folders) {
    const tensors = await checkpoint.tensors(folder)
    for (const name of tensors.names()) {
      if (!isOfPart(folder, name, part) || NEVER_WIDENED[folder]?.test(name)) continue
      if (quantised?.tensors.has(`${name}.values`)) continue
      const { dtype, length } = tensors.get(name)
      if (dtype === 'BF16' || dtype === 'F16') bytes += 2 * length
    }
  }
  return bytes
}

/**
 * What the machine can give, and not more than a container may have. A container's own use is left out: the files
 * it has read count as use although they give way.
 */
export function readAvailableBytes(): number {
  const limit = process.constrainedMemory()
  return limit > 0 ? Math.min(os.freemem(), limit) : os.freemem()
}
