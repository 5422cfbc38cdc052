import {
  DeleteObjectCommand,
  GetObjectCommand,
  NoSuchKey,
  PutObjectCommand,
  S3Client,
} from '@aws-sdk/client-s3'
import { createHash, randomUUID } from 'node:crypto'
import { mkdir, open, readFile, rename, rm, rmdir } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { inputFolderOf, inputKeyOf } from '../db/input-images.ts'
import type { InputImage } from '../db/input-images.ts'

export interface Picture {
  jobId: string
  /** The attempt that made it. */
  attempt: number
  /** Which of the job's images it is. */
  idx: number
  bytes: Uint8Array
  /** Hex, of `bytes`. */
  sha256: string
  contentType: string
  format: 'png' | 'webp' | 'jpeg' | 'avif'
}

/** An input of a job, which the gateway has stored. */
export interface InputPlace {
  jobId: string
  idx: number
  image: InputImage
}

/** The worker's side of the object store: it writes, takes back what nothing will ever name, and reads inputs. */
export interface PictureStore {
  /**
   * Stores a picture and returns its key. Done when the bytes are durable; safe to repeat.
   *
   * @throws when the bytes do not have the checksum, the store cannot be written, or `signal` is aborted; the
   *   object may be there all the same
   */
  put(picture: Picture, signal?: AbortSignal): Promise<string>
  /** Done when the object is gone. Safe to repeat. */
  remove(key: string): Promise<void>
  /**
   * The bytes of an input; null when it is not there or is not what its checksum says.
   *
   * @throws when the store cannot be read
   */
  readInput(place: InputPlace): Promise<Uint8Array | null>
  /** Done when the input is gone. Safe to repeat. */
  removeInput(place: InputPlace): Promise<void>
}

/**
 * `images/<job id>/<index>-<attempt>-<sha256>.<format>`. Each key belongs to one attempt of one job, so that nobody
 * else's picture is gone when it is removed, not even the same picture made again by a later attempt.
 */
export function objectKeyOf({
  jobId,
  attempt,
  idx,
  sha256,
  format,
}: Omit<Picture, 'bytes'>): string {
  return `images/${jobId}/${idx}-${attempt}-${sha256}.${format}`
}

/** The store in a folder that the gateway reads too. A reader sees a whole picture or none. */
export function createFileStore(folder: string): PictureStore {
  const root = resolve(folder)
  return {
    async put(picture, signal) {
      assertChecksum(picture)
      const key = objectKeyOf(picture)
      const target = join(root, key)
      await mkdir(dirname(target), { recursive: true })
      const draft = `${target}.${randomUUID()}.part`
      try {
        await writeDurably(draft, picture.bytes, signal)
        signal?.throwIfAborted()
        await rename(draft, target)
      } catch (error) {
        await rm(draft, { force: true })
        throw error
      }
      // A name is durable when its folder is, and so on up to the folder that was there before.
      for (const level of [dirname(target), join(root, 'images'), root]) await syncFolder(level)
      return key
    },
    async remove(key) {
      await rm(join(root, key), { force: true })
    },
    async readInput({ jobId, idx, image }) {
      try {
        return checked(await readFile(join(root, inputKeyOf(jobId, idx, image))), image)
      } catch (error) {
        if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return null
        throw error
      }
    },
    async removeInput({ jobId, idx, image }) {
      await rm(join(root, inputKeyOf(jobId, idx, image)), { force: true })
      // The folder stands for the job alone; the last input leaves it empty.
      await rmdir(join(root, inputFolderOf(jobId))).catch(() => {})
    },
  }
}

async function writeDurably(path: string, bytes: Uint8Array, signal?: AbortSignal): Promise<void> {
  const file = await open(path, 'wx')
  try {
    await file.writeFile(bytes, signal === undefined ? {} : { signal })
    await file.sync()
  } finally {
    await file.close()
  }
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}

/** The largest picture is some ten megabytes; a slow uplink of 1 MB/s still gets it there. */
const UPLOAD_TIMEOUT_MS = 30_000
/** Short, because a worker that leaves may have to wait for it. */
const REMOVE_TIMEOUT_MS = 3_000
/** The largest input is some twenty megabytes. */
const DOWNLOAD_TIMEOUT_MS = 30_000

/** The store on S3 or anything that speaks its protocol; the store checks the checksum as well. */
export function createS3Store(settings: {
  bucket: string
  region: string
  /** For S3-compatible stores; path-style addressing is used with it. */
  endpoint?: string
  credentials?: { accessKeyId: string; secretAccessKey: string; sessionToken?: string }
}): PictureStore {
  const { bucket, endpoint, ...rest } = settings
  const client = new S3Client({
    ...rest,
    maxAttempts: 3,
    ...(endpoint === undefined ? {} : { endpoint, forcePathStyle: true }),
  })
  return {
    async put(picture, signal) {
      assertChecksum(picture)
      const key = objectKeyOf(picture)
      const command = new PutObjectCommand({
        Bucket: bucket,
        Key: key,
        Body: picture.bytes,
        ContentType: picture.contentType,
        CacheControl: 'private, max-age=31536000, immutable',
        ChecksumSHA256: Buffer.from(picture.sha256, 'hex').toString('base64'),
      })
      const timeout = AbortSignal.timeout(UPLOAD_TIMEOUT_MS)
      const abortSignal = signal === undefined ? timeout : AbortSignal.any([signal, timeout])
      await client.send(command, { abortSignal })
      return key
    },
    async remove(key) {
      const command = new DeleteObjectCommand({ Bucket: bucket, Key: key })
      await client.send(command, { abortSignal: AbortSignal.timeout(REMOVE_TIMEOUT_MS) })
    },
    async readInput({ jobId, idx, image }) {
      const command = new GetObjectCommand({ Bucket: bucket, Key: inputKeyOf(jobId, idx, image) })
      const abortSignal = AbortSignal.timeout(DOWNLOAD_TIMEOUT_MS)
      try {
        const { Body } = await client.send(command, { abortSignal })
        return Body === undefined ? null : checked(await Body.transformToByteArray(), image)
      } catch (error) {
        if (error instanceof NoSuchKey) return null
        throw error
      }
    },
    async removeInput({ jobId, idx, image }) {
      const command = new DeleteObjectCommand({
        Bucket: bucket,
        Key: inputKeyOf(jobId, idx, image),
      })
      await client.send(command, { abortSignal: AbortSignal.timeout(REMOVE_TIMEOUT_MS) })
    },
  }
}

function checked(bytes: Uint8Array, image: InputImage): Uint8Array | null {
  return createHash('sha256').update(bytes).digest('hex') === image.sha256 ? bytes : null
}

function assertChecksum(picture: Picture): void {
  const sha256 = createHash('sha256').update(picture.bytes).digest('hex')
  if (sha256 !== picture.sha256) throw new Error('the picture does not have its own checksum')
}
