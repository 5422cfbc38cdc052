import { createHash } from 'node:crypto'
import type { Hash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { mkdir, open, rename, rm, stat, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import type { HubClient, HubFile } from './hub-client.ts'
import { HubError } from './hub-error.ts'

export interface FetchTimes {
  /** Pauses between tries in a row that brought nothing; after the last of them the file is given up. */
  pausesMs: readonly number[]
}

/** Two minutes in all: longer than a router takes to start. */
export const FETCH_TIMES: FetchTimes = {
  pausesMs: [1_000, 2_000, 4_000, 8_000, 15_000, 30_000, 60_000],
}

/** Whole downloads with a wrong checksum before a file is given up. */
const MAX_WRONG = 2

export interface FetchTarget {
  dir: string
  commit: string
  times: FetchTimes
  signal: AbortSignal
  /** Bytes that came, or were there. */
  onBytes: (count: number) => void
}

/**
 * Brings one file to its place, with the checksum of the hub's metadata. What comes is kept in `<path>.part` beside it, and
 * the next try, in this call or another, asks only for the rest.
 *
 * @returns `kept` when the right file was there already
 * @throws HubError
 */
export async function fetchFile(
  hub: HubClient,
  file: HubFile,
  target: FetchTarget,
): Promise<'kept' | 'fetched'> {
  const path = join(target.dir, file.path)
  if (await isRight(path, file)) {
    target.onBytes(file.sizeBytes)
    return 'kept'
  }
  const part = `${path}.part`
  await mkdir(dirname(path), { recursive: true })
  let failures = 0
  let wrong = 0
  for (;;) {
    const before = await sizeOf(part)
    try {
      const isWhole = await readOn(hub, file, { ...target, part })
      if (isWhole) {
        await rename(part, path)
        return 'fetched'
      }
      await rm(part, { force: true })
      target.onBytes(-file.sizeBytes)
      wrong += 1
      if (wrong >= MAX_WRONG) throw wrongHash(file)
    } catch (error) {
      if (target.signal.aborted || !canPass(error)) throw toHubError(error, file)
      failures = (await sizeOf(part)) > before ? 0 : failures + 1
      const pauseMs = target.times.pausesMs[failures === 0 ? 0 : failures - 1]
      if (pauseMs === undefined) throw toHubError(error, file)
      await wait(pauseMs, undefined, { signal: target.signal })
    }
  }
}

/** Reads from where the part ends. @returns false when the whole has another checksum */
async function readOn(
  hub: HubClient,
  file: HubFile,
  { part, commit, signal, onBytes }: FetchTarget & { part: string },
): Promise<boolean> {
  const known = await hashOf(part, file)
  let { size } = known
  let { hash } = known
  onBytes(size)
  try {
    // Nothing is asked for of an empty file, and it has to be there all the same.
    if (file.sizeBytes === 0) await writeFile(part, '')
    if (size < file.sizeBytes) {
      const answer = await hub.read(file, commit, size, signal)
      const handle = await open(part, answer.start === 0 ? 'w' : 'a')
      if (answer.start === 0) {
        onBytes(-size)
        size = 0
        hash = startHash(file)
      }
      try {
        for await (const chunk of answer.body) {
          if (size + chunk.length > file.sizeBytes) throw new HubError('hub_invalid', tooLong(file))
          await handle.writeFile(chunk)
          hash.update(chunk)
          size += chunk.length
          onBytes(chunk.length)
        }
        await handle.sync()
      } finally {
        await handle.close()
      }
    }
    if (size < file.sizeBytes) throw new Error(`the connection ended after ${size} bytes`)
    return hash.digest('hex') === file.digest.hex
  } catch (error) {
    onBytes(-size)
    throw error
  }
}

async function isRight(path: string, file: HubFile): Promise<boolean> {
  if ((await sizeOf(path)) !== file.sizeBytes) return false
  const { size, hash } = await hashOf(path, file)
  return size === file.sizeBytes && hash.digest('hex') === file.digest.hex
}

/** Of what is there; a part that is too long is none of this file. */
async function hashOf(path: string, file: HubFile): Promise<{ size: number; hash: Hash }> {
  const hash = startHash(file)
  const size = await sizeOf(path)
  if (size <= 0) return { size: 0, hash }
  if (size > file.sizeBytes) {
    await rm(path)
    return { size: 0, hash }
  }
  for await (const chunk of createReadStream(path) as AsyncIterable<Buffer>) hash.update(chunk)
  return { size, hash }
}

/** -1 when there is none. */
async function sizeOf(path: string): Promise<number> {
  return await stat(path).then(
    ({ size }) => size,
    () => -1,
  )
}

function startHash({ digest, sizeBytes }: HubFile): Hash {
  if (digest.kind === 'sha256') return createHash('sha256')
  return createHash('sha1').update(`blob ${sizeBytes}\0`)
}

/** Whether another try may help. */
function canPass(error: unknown): boolean {
  if (error instanceof HubError) return error.code === 'unreachable'
  const code = error instanceof Error && 'code' in error ? String(error.code) : ''
  return !/^(ENOSPC|EDQUOT|EACCES|EPERM|EROFS|EISDIR|ENOTDIR|EFBIG)$/.test(code)
}

function toHubError(error: unknown, { path }: HubFile): unknown {
  if (error instanceof HubError || !(error instanceof Error)) return error
  const code = 'code' in error ? String(error.code) : ''
  if (/^(ENOSPC|EDQUOT|EFBIG)$/.test(code)) {
    const message = `${path}: no room left on the disk; what came is kept`
    return new HubError('no_space', message, { cause: error })
  }
  if (/^E[A-Z]+$/.test(code) && !canPass(error)) return error
  return new HubError('unreachable', `${path}: ${error.message}`, { cause: error })
}

function wrongHash({ path, digest }: HubFile): HubError {
  const message = `${path}: what the hub sends does not have its ${digest.kind} ${digest.hex}`
  return new HubError('wrong_hash', message)
}

function tooLong({ path, sizeBytes }: HubFile): string {
  return `${path}: the hub sends more than the ${sizeBytes} bytes that it names`
}
