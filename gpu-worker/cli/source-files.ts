import { readFile, stat } from 'node:fs/promises'

import { MAX_IMAGES_BYTES } from '../engine-messages.ts'
import { UsageError } from './generate-arguments.ts'

/**
 * Reads the files of condition images.
 *
 * @throws UsageError naming the flag and the reason
 */
export async function readSourceFiles(paths: readonly string[]): Promise<Uint8Array[]> {
  const files: Uint8Array[] = []
  for (const path of paths) {
    try {
      if ((await stat(path)).size > MAX_IMAGES_BYTES) {
        throw new Error(`${path} is larger than ${MAX_IMAGES_BYTES} bytes`)
      }
      files.push(await readFile(path))
    } catch (cause) {
      const reason = cause instanceof Error ? cause.message : String(cause)
      throw new UsageError(`--image: ${reason}`, { cause })
    }
  }
  return files
}
