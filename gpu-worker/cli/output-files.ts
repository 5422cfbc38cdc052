import { mkdir, open, rename, rm, stat } from 'node:fs/promises'
import type { FileHandle } from 'node:fs/promises'
import { dirname } from 'node:path'

import { UsageError } from './generate-arguments.ts'

export interface OutputFiles {
  /** Writes both files and gives them their names. */
  finish(picture: Uint8Array, sidecar: string): Promise<void>
  /** Removes what is not finished. Safe to repeat. */
  discard(): Promise<void>
}

/**
 * Opens the files of one picture under names that end in `.partial`, so that a place that cannot be written to is
 * found before the work and a run that fails leaves nothing behind and nothing overwritten.
 *
 * @throws UsageError naming the flag and the reason
 */
export async function openOutputFiles(paths: {
  out: string
  sidecar: string
}): Promise<OutputFiles> {
  await makeFolder(dirname(paths.out)).catch(refuse)
  const picture = await openPartial(paths.out)
  const sidecar = await openPartial(paths.sidecar).catch(async (error: unknown) => {
    await picture.discard()
    throw error
  })
  return {
    async finish(bytes, text) {
      await picture.handle.writeFile(bytes)
      await sidecar.handle.writeFile(text)
      await picture.finish()
      await sidecar.finish()
    },
    async discard() {
      await picture.discard()
      await sidecar.discard()
    },
  }
}

/** Node's own recursive form never returns where a folder is refused as missing, as in /proc (node 22.23.3). */
async function makeFolder(path: string): Promise<void> {
  try {
    await mkdir(path)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'EEXIST' && (await stat(path)).isDirectory()) return
    if (code !== 'ENOENT' || dirname(path) === path) throw error
    await makeFolder(dirname(path))
    await mkdir(path)
  }
}

async function openPartial(path: string) {
  const partial = `${path}.partial`
  const isFolder = await stat(path).then(
    (found) => found.isDirectory(),
    () => false,
  )
  if (isFolder) throw new UsageError(`--out: ${path} is a folder`)
  const handle: FileHandle = await open(partial, 'w').catch(refuse)
  return {
    handle,
    async finish() {
      await handle.close()
      await rename(partial, path)
    },
    async discard() {
      await handle.close()
      await rm(partial, { force: true })
    },
  }
}

function refuse(cause: unknown): never {
  const reason = cause instanceof Error ? cause.message : String(cause)
  throw new UsageError(`--out: ${reason}`, { cause })
}
