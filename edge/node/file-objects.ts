import { constants } from 'node:fs'
import { open, rm } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { Readable } from 'node:stream'
import { assertObjectKey, objectFolderOf } from '../objects.ts'
import type { ObjectStore } from '../objects.ts'

/**
 * The store in a folder of this machine, written by workers that share it. Keys have one fixed form, so
 * that no key can name a file outside the folder; a symbolic link in place of a picture is not followed.
 *
 * @param folder made by the workers; a missing one reads as empty
 */
export function createFileObjects(folder: string): ObjectStore {
  const root = resolve(folder)
  return {
    async read(key) {
      assertObjectKey(key)
      const file = await ignoreMissing(
        open(join(root, key), constants.O_RDONLY | constants.O_NOFOLLOW),
      )
      if (file === null) return null
      const { size } = await file.stat()
      // The stream closes the file at its end, when it is canceled and when reading fails.
      const body = Readable.toWeb(file.createReadStream()) as ReadableStream<Uint8Array>
      return { body, sizeBytes: size }
    },
    async remove(jobId) {
      // A worker that is late with its picture may write into the folder while it is emptied.
      await rm(join(root, objectFolderOf(jobId)), { recursive: true, force: true, maxRetries: 3 })
    },
  }
}

async function ignoreMissing<T>(work: Promise<T>): Promise<T | null> {
  try {
    return await work
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return null
    throw error
  }
}
