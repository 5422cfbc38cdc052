import { PutObjectCommand, S3Client } from '@aws-sdk/client-s3'
import { createHash, randomUUID } from 'node:crypto'
import { mkdir, open, rename, rm, stat } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'

export interface Picture {
  bytes: Uint8Array
  /** Hex, of `bytes`. */
  sha256: string
  contentType: string
  format: 'png' | 'webp' | 'jpeg' | 'avif'
}

/** The worker's side of the object store: it only writes. */
export interface PictureStore {
  /**
   * Stores a picture under its own checksum and returns the key. Done when the bytes are durable; safe to
   * repeat.
   *
   * @throws when the bytes do not have the checksum, or the store cannot be written
   */
  put(picture: Picture): Promise<string>
}

/** `images/<first two hex>/<sha256>.<format>`: content-addressed, so equal pictures are stored once. */
export function objectKeyOf(picture: Pick<Picture, 'sha256' | 'format'>): string {
  return `images/${picture.sha256.slice(0, 2)}/${picture.sha256}.${picture.format}`
}

/** The store in a folder that the gateway reads too. A reader sees a whole picture or none. */
export function createFileStore(folder: string): PictureStore {
  const root = resolve(folder)
  return {
    async put(picture) {
      assertChecksum(picture)
      const key = objectKeyOf(picture)
      const target = join(root, key)
      const known = await stat(target).catch(() => null)
      if (known?.size === picture.bytes.length) return key
      await mkdir(dirname(target), { recursive: true })
      const draft = `${target}.${randomUUID()}.part`
      try {
        const file = await open(draft, 'wx')
        try {
          await file.writeFile(picture.bytes)
          await file.sync()
        } finally {
          await file.close()
        }
        await rename(draft, target)
      } catch (error) {
        await rm(draft, { force: true })
        throw error
      }
      return key
    },
  }
}

/** The largest picture is some ten megabytes; a slow uplink of 1 MB/s still gets it there. */
const UPLOAD_TIMEOUT_MS = 30_000

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
    async put(picture) {
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
      await client.send(command, { abortSignal: AbortSignal.timeout(UPLOAD_TIMEOUT_MS) })
      return key
    },
  }
}

function assertChecksum(picture: Picture): void {
  const sha256 = createHash('sha256').update(picture.bytes).digest('hex')
  if (sha256 !== picture.sha256) throw new Error('the picture does not have its own checksum')
}
