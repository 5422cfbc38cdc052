import { join } from 'node:path'
import type { Checkpoint } from './checkpoint.ts'
import { CheckpointError } from './checkpoint-error.ts'
import { isRecord, parseJson } from './json-file.ts'
import { openTensorFile } from './safetensors.ts'
import type { TensorIndex } from './safetensors.ts'

/** Weights of the writer in 8 bits, from a file beside the checkpoint. */
export interface QuantisedWeights {
  /** `<name>.values` uint8 [rows, blocks, block size] around 128, `<name>.scales` float32 [rows, blocks]. */
  readonly tensors: TensorIndex
  readonly blockSize: number
}

/** What the file says of itself; safetensors keeps texts only. */
export const FORMAT = 'glyphpress-int8-1'

/** What fits a kernel of the runtime. */
export const BLOCK_SIZES: readonly number[] = [32, 64, 128]

/** In a folder of its own: every safetensors file of the writer's folder may be taken for a part of it. */
export function quantisedPath(dir: string): string {
  return join(dir, 'int8', 'vision_language_encoder.safetensors')
}

/**
 * Opens the weights that `quantiseWeights` made.
 *
 * @throws CheckpointError when there are none, or they were made from other weights
 */
export async function openQuantised(checkpoint: Checkpoint): Promise<QuantisedWeights> {
  const path = quantisedPath(checkpoint.dir)
  const cure = `npm run model:quantise -- --model ${checkpoint.dir} makes it`
  const tensors = await openTensorFile(path).catch((cause: unknown) => {
    const reason = cause instanceof Error ? cause.message : String(cause)
    throw new CheckpointError(`${reason}; ${cure}`, { cause })
  })
  const header = parseJson(tensors.files[0]?.header ?? '', path)
  const metadata =
    isRecord(header) && isRecord(header['__metadata__']) ? header['__metadata__'] : {}
  if (metadata['format'] !== FORMAT) {
    throw new CheckpointError(`${path}: __metadata__.format must be ${FORMAT}; ${cure}`)
  }
  const source = await checkpoint.tensorsHash('vision_language_encoder')
  if (metadata['source_sha256'] !== source) {
    throw new CheckpointError(`${path}: made from other weights than the checkpoint has; ${cure}`)
  }
  const blockSize = Number(metadata['block_size'])
  if (!BLOCK_SIZES.includes(blockSize)) {
    throw new CheckpointError(
      `${path}: __metadata__.block_size must be one of ${BLOCK_SIZES.join(', ')}; ${cure}`,
    )
  }
  return { tensors, blockSize }
}
