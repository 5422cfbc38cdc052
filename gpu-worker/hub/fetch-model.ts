import { mkdir, stat, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import { FETCH_TIMES, fetchFile } from './fetch-file.ts'
import type { FetchTimes } from './fetch-file.ts'
import { openHub } from './hub-client.ts'
import type { HubFile, HubPlace } from './hub-client.ts'
import { HubError } from './hub-error.ts'

export interface FetchReport {
  commit: string
  files: number
  /** Files that had to be fetched; the others were there. */
  fetched: number
  bytes: number
}

/**
 * Fetches a model from a hub into a folder, laid out as the repository is: the folder can be served as it is. Safe to
 * repeat and to interrupt: what is there with the right checksum is kept, what is there in part is gone on with.
 *
 * @param options.onProgress bytes in place, and of all
 * @param options.freeBytes what the disk has, in place of asking it
 * @throws HubError; the file system's own error where the folder cannot be written
 */
export async function fetchModel(
  place: HubPlace,
  dir: string,
  options: {
    onProgress?: (done: number, total: number) => void
    signal?: AbortSignal
    times?: FetchTimes
    silenceMs?: number
    freeBytes?: number
  } = {},
): Promise<FetchReport> {
  const { times = FETCH_TIMES, signal = new AbortController().signal } = options
  const hub = openHub(place, options.silenceMs)
  try {
    const { commit, files } = await hub.list().catch((cause: unknown) => {
      if (cause instanceof HubError || signal.aborted) throw cause
      const text = cause instanceof Error ? cause.message : String(cause)
      throw new HubError('unreachable', `${place.endpoint}: ${text}`, { cause })
    })
    await mkdir(dir, { recursive: true })
    await requireSpace(dir, files, options.freeBytes)
    const total = files.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)
    let done = 0
    let fetched = 0
    const onBytes = (count: number) => {
      done += count
      options.onProgress?.(done, total)
    }
    for (const file of files) {
      signal.throwIfAborted()
      const outcome = await fetchFile(hub, file, { dir, commit, times, signal, onBytes })
      if (outcome === 'fetched') fetched += 1
    }
    return { commit, files: files.length, fetched, bytes: total }
  } finally {
    await hub.close()
  }
}

/** @throws HubError `no_space` naming what is missing, before anything is fetched */
async function requireSpace(
  dir: string,
  files: readonly HubFile[],
  known: number | undefined,
): Promise<void> {
  let needed = 0
  for (const { path, sizeBytes } of files) {
    const whole = await sizeOf(join(dir, path))
    const there = whole === sizeBytes ? whole : await sizeOf(join(dir, `${path}.part`))
    needed += Math.max(0, sizeBytes - there)
  }
  const { bavail, bsize } = await statfs(dir)
  const free = known ?? bavail * bsize
  if (needed <= free) return
  const gigabytes = (bytes: number) => (bytes / 1e9).toFixed(1)
  throw new HubError(
    'no_space',
    `${dir}: ${gigabytes(needed)} GB are to come, and the disk has ${gigabytes(free)} GB free`,
  )
}

async function sizeOf(path: string): Promise<number> {
  return await stat(path).then(
    ({ size }) => size,
    () => 0,
  )
}
