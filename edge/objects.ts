import {
  DeleteObjectCommand,
  GetObjectCommand,
  ListObjectsV2Command,
  NoSuchKey,
  PutObjectCommand,
  S3Client,
} from '@aws-sdk/client-s3'
import { getSignedUrl } from '@aws-sdk/s3-request-presigner'
import { isId, timeOfId } from '../db/ids.ts'
import { inputFolderOf, inputKeyOf } from '../db/input-images.ts'
import type { InputImage } from '../db/input-images.ts'

/** Bytes of one stored picture on their way out. */
export interface StoredObject {
  body: ReadableStream<Uint8Array>
  sizeBytes: number
}

/** A picture on its way in, for a job that is about to be made. */
export interface NewInput {
  jobId: string
  idx: number
  image: InputImage
  bytes: Uint8Array
}

/** The gateway's side of the object store: it reads and removes pictures, which workers write, and writes their inputs. */
export interface ObjectStore {
  /** Null when there is no such object. The stream must be read to its end or canceled. */
  read(key: string): Promise<StoredObject | null>
  /** A URL that fetches the object from the store itself; absent when callers cannot reach the store. */
  presign?(key: string, seconds: number, contentType: string): Promise<string>
  /**
   * Done when the store has nothing of this job any more, neither pictures nor inputs, also nothing that a worker
   * wrote and never noted before it crashed. Safe to repeat.
   */
  remove(jobId: string): Promise<void>
  /** Keeps an input till it is removed. A reader sees a whole one or none. */
  putInput(input: NewInput): Promise<void>
  /** Done when no input of this job is there any more. Safe to repeat. */
  removeInputs(jobId: string): Promise<void>
  /**
   * Removes inputs of jobs, also of such that never came to be, whose ids are older than that. Safe to repeat and to
   * run in several processes at once.
   *
   * @param limit of one call; the oldest go first
   * @returns how many objects or, where a job's go together, folders were removed
   */
  removeOldInputs(input: { before: Date; limit: number }): Promise<number>
}

export interface S3Settings {
  bucket: string
  region: string
  /** For S3-compatible stores; path-style addressing is used with it. */
  endpoint?: string
  /** Without them the SDK looks in the usual places of its platform. */
  credentials?: { accessKeyId: string; secretAccessKey: string; sessionToken?: string }
  /** Whether callers can reach the store, so that they may be sent there with a presigned URL. */
  isPublic: boolean
}

/** Time to the first byte; pictures of a few megabytes start within tens of milliseconds. */
const REQUEST_TIMEOUT_MS = 10_000
/** A slow uplink of 1 MB/s still gets the largest input there. */
const UPLOAD_TIMEOUT_MS = 30_000
/** One retry more than none: the caller is waiting, and may ask again. */
const MAX_ATTEMPTS = 2

/** A page of the listing holds a thousand objects; a job has some ten of each kind and a few crashes' leftovers. */
const MAX_LIST_PAGES = 10

/** Under the 50 sockets of the SDK: nobody's time runs out while it waits for one. */
const REMOVALS_AT_ONCE = 32

/** The form of every key that a worker writes; anything else is a bug or an attack. */
const KEY_FORM =
  /^images\/(job_[0-9a-z]+)\/[0-9]{1,2}-[0-9]{1,9}-[0-9a-f]{64}\.(png|webp|jpeg|avif)$/

/**
 * Whether a key has the one form that is ever stored: `images/<job id>/<index>-<attempt>-<sha256>.<format>`. Every
 * store refuses other keys before it touches anything.
 */
export function isObjectKey(key: string): boolean {
  return isId('job', KEY_FORM.exec(key)?.[1] ?? '')
}

/** Under what every object of a job lies, with a slash at the end. @throws an Error (bug) for no job's id */
export function objectFolderOf(jobId: string): string {
  if (!isId('job', jobId)) throw new Error('job id has an unknown form')
  return `images/${jobId}/`
}

/** Whether this is the id of a job and was made before that. */
export function isOlder(jobId: string, before: Date): boolean {
  return isId('job', jobId) && timeOfId(jobId) < before
}

/** @throws an Error (bug) for a key that no worker can have written */
export function assertObjectKey(key: string): void {
  if (!isObjectKey(key)) throw new Error('object key has an unknown form')
}

/**
 * The store on S3 or anything that speaks its protocol. Works on Node and on Workers.
 *
 * @throws errors of the SDK when the store cannot be reached or refuses the credentials
 */
export function createS3Objects(settings: S3Settings): ObjectStore {
  const client = new S3Client({
    region: settings.region,
    maxAttempts: MAX_ATTEMPTS,
    ...(settings.endpoint === undefined
      ? {}
      : { endpoint: settings.endpoint, forcePathStyle: true }),
    ...(settings.credentials === undefined ? {} : { credentials: settings.credentials }),
    // Other stores know neither the SDK's default checksums nor need them: the key holds the sha256.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
  })
  const { bucket: Bucket } = settings
  const { removeUnder, ...inputs } = createS3Inputs(client, Bucket)
  const store: ObjectStore = {
    async read(key) {
      assertObjectKey(key)
      try {
        const command = new GetObjectCommand({ Bucket, Key: key })
        const answer = await withTimeout((abortSignal) => client.send(command, { abortSignal }))
        if (answer.Body === undefined || answer.ContentLength === undefined) return null
        return { body: answer.Body.transformToWebStream(), sizeBytes: answer.ContentLength }
      } catch (error) {
        if (error instanceof NoSuchKey) return null
        throw error
      }
    },
    async remove(jobId) {
      await removeUnder(objectFolderOf(jobId))
      await removeUnder(inputFolderOf(jobId))
    },
    ...inputs,
  }
  if (!settings.isPublic) return store
  return {
    ...store,
    async presign(key, seconds, contentType) {
      assertObjectKey(key)
      const command = new GetObjectCommand({
        Bucket,
        Key: key,
        ResponseContentType: contentType,
        ResponseContentDisposition: 'inline',
      })
      return getSignedUrl(client, command, { expiresIn: seconds })
    },
  }
}

function createS3Inputs(client: S3Client, Bucket: string) {
  const removeAll = async (found: readonly { Key?: string | undefined }[]) => {
    for (let first = 0; first < found.length; first += REMOVALS_AT_ONCE) {
      const some = found.slice(first, first + REMOVALS_AT_ONCE)
      await withTimeout((abortSignal) =>
        Promise.all(
          some.map(({ Key }) =>
            client.send(new DeleteObjectCommand({ Bucket, Key }), { abortSignal }),
          ),
        ),
      )
    }
  }
  const removeUnder = async (Prefix: string) => {
    const list = new ListObjectsV2Command({ Bucket, Prefix })
    for (let page = 0; page < MAX_LIST_PAGES; page++) {
      const { Contents = [], IsTruncated } = await withTimeout((abortSignal) =>
        client.send(list, { abortSignal }),
      )
      await removeAll(Contents)
      if (IsTruncated !== true) return
    }
    throw new Error(`under ${Prefix} are more objects than any job can have`)
  }
  return {
    removeUnder,
    async putInput({ jobId, idx, image, bytes }: NewInput) {
      const command = new PutObjectCommand({
        Bucket,
        Key: inputKeyOf(jobId, idx, image),
        Body: bytes,
        ContentType: `image/${image.format}`,
      })
      await withTimeout((abortSignal) => client.send(command, { abortSignal }), UPLOAD_TIMEOUT_MS)
    },
    async removeInputs(jobId: string) {
      await removeUnder(inputFolderOf(jobId))
    },
    async removeOldInputs({ before, limit }: { before: Date; limit: number }) {
      // Keys are listed in their order, which is that of the time in the ids.
      const list = new ListObjectsV2Command({ Bucket, Prefix: 'inputs/', MaxKeys: limit })
      const { Contents = [] } = await withTimeout((abortSignal) =>
        client.send(list, { abortSignal }),
      )
      const old = Contents.filter(({ Key = '' }) => isOlder(Key.split('/')[1] ?? '', before))
      await removeAll(old)
      return old.length
    },
  }
}

/** Bounds the wait for an answer, not the download that follows: a slow reader keeps its stream. */
async function withTimeout<T>(
  work: (signal: AbortSignal) => Promise<T>,
  timeoutMs = REQUEST_TIMEOUT_MS,
): Promise<T> {
  const controller = new AbortController()
  const timer = setTimeout(() => controller.abort(), timeoutMs)
  try {
    return await work(controller.signal)
  } finally {
    clearTimeout(timer)
  }
}
