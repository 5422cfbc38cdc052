import os from 'node:os'

import { TENSOR_FOLDERS } from './checkpoint.ts'
import type { Checkpoint, TensorFolder } from './checkpoint.ts'
import { CheckpointError } from './checkpoint-error.ts'

/** Tensors that no graph of text to image takes in another type than the file's. */
const NEVER_WIDENED: Partial<Record<TensorFolder, RegExp>> = {
  vision_language_encoder: /^model\.(visual|vqmodel)\.|\.embed_tokens\.weight$/,
  vae: /^encoder\./,
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
  availableBytes: number = readAvailableBytes(),
): Promise<void> {
  const needed = await widenedBytes(checkpoint)
  if (needed <= availableBytes) return
  const gigabytes = (bytes: number) => (bytes / 1e9).toFixed(1)
  throw new CheckpointError(
    `${checkpoint.dir}: needs ${gigabytes(needed)} GB of memory for its weights in float32, ` +
      `${gigabytes(availableBytes)} GB available`,
  )
}

/** Size of the float32 copies that opening every stage on a processor makes. */
export async function widenedBytes(checkpoint: Checkpoint): Promise<number> {
  let bytes = 0
  for (const folder of TENSOR_FOLDERS) {
    const tensors = await checkpoint.tensors(folder)
    for (const name of tensors.names()) {
      if (NEVER_WIDENED[folder]?.test(name)) continue
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
function readAvailableBytes(): number {
  const limit = process.constrainedMemory()
  return limit > 0 ? Math.min(os.freemem(), limit) : os.freemem()
}
