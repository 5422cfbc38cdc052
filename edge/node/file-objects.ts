import { constants } from 'node:fs'
import { mkdir, open, readdir, rename, rm, writeFile } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { Readable } from 'node:stream'
import { inputFolderOf, inputKeyOf } from '../../db/input-images.ts'
import { assertObjectKey, isOlder, objectFolderOf } from '../objects.ts'
import type { ObjectStore } from '../objects.ts'

/**
 * The store in a folder of this machine, written by workers that share it, and for their inputs by this one. Keys have one fixed form, so
 * that no key can name a file outside the folder; a symbolic link in place of a picture is not followed.
 *
 * @param folder made when something is written; a missing one reads as empty
 */
export function createFileObjects(folder: string): ObjectStore {
  const root = resolve(folder)
  const removeFolder = (name: string) =>
    // A worker that is late with its picture may write into the folder while it is emptied.
    rm(join(root, name), { recursive: true, force: true, maxRetries: 3 })
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
      await removeFolder(objectFolderOf(jobId))
      await removeFolder(inputFolderOf(jobId))
    },
    async putInput({ jobId, idx, image, bytes }) {
      const target = join(root, inputKeyOf(jobId, idx, image))
      await mkdir(dirname(target), { recursive: true })
      // Its folder is removed as a whole, and with it the draft that a crash leaves.
      const draft = `${target}.part`
      await writeFile(draft, bytes, { flush: true })
      await rename(draft, target)
    },
    async removeInputs(jobId) {
      await removeFolder(inputFolderOf(jobId))
    },
    async removeOldInputs({ before, limit }) {
      const jobs = (await ignoreMissing(readdir(join(root, 'inputs')))) ?? []
      const old = jobs.filter((jobId) => isOlder(jobId, before)).toSorted()
      for (const jobId of old.slice(0, limit)) await removeFolder(inputFolderOf(jobId))
      return Math.min(old.length, limit)
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
