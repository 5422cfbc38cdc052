import { DeleteObjectCommand, GetObjectCommand, NoSuchKey, S3Client } from '@aws-sdk/client-s3'
import { getSignedUrl } from '@aws-sdk/s3-request-presigner'

/** Bytes of one stored picture on their way out. */
export interface StoredObject {
  body: ReadableStream<Uint8Array>
  sizeBytes: number
}

/** The gateway's side of the object store: it reads and removes; only workers write. */
export interface ObjectStore {
  /** Null when there is no such object. The stream must be read to its end or canceled. */
  read(key: string): Promise<StoredObject | null>
  /** A URL that fetches the object from the store itself; absent when callers cannot reach the store. */
  presign?(key: string, seconds: number, contentType: string): Promise<string>
  /** Done when the object is gone; an object that was not there is gone. Safe to repeat. */
  remove(key: string): Promise<void>
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
/** One retry more than none: the caller is waiting, and may ask again. */
const MAX_ATTEMPTS = 2

/** The form of every key that a worker writes; anything else is a bug or an attack. */
const KEY_FORM = /^images\/[0-9a-f]{2}\/[0-9a-f]{64}\.(png|webp|jpeg|jpg|avif)$/

/**
 * Whether a key has the one form that is ever stored: content-addressed, no dots but one, no `..`.
 * Every store refuses other keys before it touches anything.
 */
export function isObjectKey(key: string): boolean {
  return KEY_FORM.test(key)
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
    // Other stores know neither the SDK's default checksums nor need them: the key is the sha256.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
  })
  const store: ObjectStore = {
    async read(key) {
      assertObjectKey(key)
      try {
        const command = new GetObjectCommand({ Bucket: settings.bucket, Key: key })
        const answer = await withTimeout((abortSignal) => client.send(command, { abortSignal }))
        if (answer.Body === undefined || answer.ContentLength === undefined) return null
        return { body: answer.Body.transformToWebStream(), sizeBytes: answer.ContentLength }
      } catch (error) {
        if (error instanceof NoSuchKey) return null
        throw error
      }
    },
    async remove(key) {
      assertObjectKey(key)
      const command = new DeleteObjectCommand({ Bucket: settings.bucket, Key: key })
      await withTimeout((abortSignal) => client.send(command, { abortSignal }))
    },
  }
  if (!settings.isPublic) return store
  return {
    ...store,
    async presign(key, seconds, contentType) {
      assertObjectKey(key)
      const command = new GetObjectCommand({
        Bucket: settings.bucket,
        Key: key,
        ResponseContentType: contentType,
        ResponseContentDisposition: 'inline',
      })
      return getSignedUrl(client, command, { expiresIn: seconds })
    },
  }
}

/** Bounds the wait for an answer, not the download that follows: a slow reader keeps its stream. */
async function withTimeout<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController()
  const timer = setTimeout(() => controller.abort(), REQUEST_TIMEOUT_MS)
  try {
    return await work(controller.signal)
  } finally {
    clearTimeout(timer)
  }
}
