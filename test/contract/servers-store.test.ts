import { CreateBucketCommand, HeadObjectCommand, S3Client } from '@aws-sdk/client-s3'
import { createHash } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createId } from '../../db/ids.ts'
import { createFileObjects } from '../../edge/node/file-objects.ts'
import { createS3Objects } from '../../edge/objects.ts'
import type { ObjectStore, S3Settings } from '../../edge/objects.ts'
import { createFileStore, createS3Store } from '../../gpu-worker/store.ts'
import type { PictureStore } from '../../gpu-worker/store.ts'
import { isAtHand, openForeign } from '../servers/foreign-server.ts'
import { MOTO } from '../servers/moto.ts'
import { startBucket } from '../support/bucket.ts'

// What gateway and worker need of an object store, by every kind that there is: the folder of `npm start`, and servers of
// the S3 protocol, of which one checks signatures and one is modelled on AWS.

/** For two thousand calls, one server of which is slow on a machine that is busy with much else. */
const MANY_MS = 300_000

interface Place extends Omit<S3Settings, 'isPublic'> {
  endpoint: string
  credentials: { accessKeyId: string; secretAccessKey: string }
}
interface Target {
  worker: PictureStore
  gateway: ObjectStore
  /** Of those that are servers. */
  s3: Place | null
  close(): Promise<void>
}

const openS3 = (s3: Place, close: () => Promise<void>): Target => ({
  worker: createS3Store(s3),
  gateway: createS3Objects({ ...s3, isPublic: true }),
  s3,
  close,
})

async function openFolder(): Promise<Target> {
  const folder = await mkdtemp(join(tmpdir(), 'glyphpress-store-'))
  return {
    worker: createFileStore(folder),
    gateway: createFileObjects(folder),
    s3: null,
    close: () => rm(folder, { recursive: true }),
  }
}

async function openBucket(): Promise<Target> {
  const bucket = await startBucket()
  return openS3({ ...bucket, bucket: bucket.name }, () => bucket.close())
}

async function openMoto(): Promise<Target> {
  const server = await openForeign(MOTO)
  if (server === null) throw new Error('moto is not here')
  const { endpoint } = server
  const credentials = { accessKeyId: 'access', secretAccessKey: 'secret' }
  // Not the region that is taken where none is given.
  const region = 'eu-central-1'
  const bucket = `pictures-${process.pid}`
  const client = new S3Client({ endpoint, region, credentials, forcePathStyle: true })
  const CreateBucketConfiguration = { LocationConstraint: region } as const
  await client.send(new CreateBucketCommand({ Bucket: bucket, CreateBucketConfiguration }))
  client.destroy()
  return openS3({ bucket, region, endpoint, credentials }, () => server.stop())
}

const TARGETS = [
  {
    name: 'a folder',
    open: openFolder,
    isHere: true,
    isServer: false,
    isStrict: false,
  },
  {
    name: 'a bucket whose server checks signatures',
    open: openBucket,
    isHere: true,
    isServer: true,
    isStrict: true,
  },
  {
    name: 'moto',
    open: openMoto,
    isHere: await isAtHand(MOTO, 'the suite of the object store'),
    isServer: true,
    isStrict: false,
  },
]

const sha256Of = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')

function picture(text: string, jobId = createId('job'), idx = 0) {
  const bytes = new TextEncoder().encode(text)
  const own = { jobId, attempt: 1, idx, contentType: 'image/png', format: 'png' as const }
  return { ...own, bytes, sha256: sha256Of(bytes) }
}

const INPUT = new TextEncoder().encode('the bytes of an input')
const image = {
  sha256: sha256Of(INPUT),
  format: 'webp' as const,
  sizeBytes: INPUT.length,
  width: 64,
  height: 64,
}
const put = (jobId: string, idx: number) => ({ jobId, idx, image, bytes: INPUT })
const place = (jobId: string, idx: number) => ({ jobId, idx, image })

describe.each(TARGETS)('$name', ({ open, isHere, isServer, isStrict }) => {
  let target: Target
  beforeAll(async () => {
    if (isHere) target = await open()
  })
  afterAll(() => target?.close())
  const when = test.skipIf(!isHere)
  /** Of servers alone. */
  const onServer = test.skipIf(!isHere || !isServer)
  /** Of those that look at who calls. */
  const onStrict = test.skipIf(!isHere || !isStrict)

  const read = async (key: string) => {
    const found = await target.gateway.read(key)
    return found === null ? null : new Response(found.body).text()
  }
  const s3 = (): Place => {
    if (target.s3 === null) throw new Error('not a server')
    return target.s3
  }
  const presign = async (key: string, seconds = 60) => {
    const url = await target.gateway.presign?.(key, seconds, 'image/png')
    if (url === undefined) throw new Error('the store does not presign')
    return url
  }
  const statusOf = async (url: URL | string) => {
    const response = await fetch(url)
    await response.body?.cancel()
    return response.status
  }
  const wrong = () => ({
    ...s3(),
    credentials: { accessKeyId: 'access', secretAccessKey: 'wrong' },
  })

  describe('pictures', () => {
    when('what the worker puts the gateway reads, byte for byte, also after a repeat', async () => {
      const one = picture('a picture')
      const key = await target.worker.put(one)
      expect(await target.worker.put(one)).toBe(key)
      const found = await target.gateway.read(key)
      expect(found?.sizeBytes).toBe(one.bytes.length)
      expect(await new Response(found?.body).text()).toBe('a picture')
    })

    when('one of many megabytes comes back whole', async () => {
      const bytes = new Uint8Array(12_000_000).map((_, index) => (index * 31) % 251)
      const sha256 = sha256Of(bytes)
      const found = await target.gateway.read(
        await target.worker.put({ ...picture('large'), bytes, sha256 }),
      )
      expect(found?.sizeBytes).toBe(bytes.length)
      expect(sha256Of(new Uint8Array(await new Response(found?.body).arrayBuffer()))).toBe(sha256)
    })

    when('what the worker takes back is gone, and taking it back again is done', async () => {
      const key = await target.worker.put(picture('taken back'))
      await target.worker.remove(key)
      await target.worker.remove(key)
      expect(await read(key)).toBe(null)
    })

    when('bytes that are not what their checksum says never leave the worker', async () => {
      const changed = { ...picture('a'), bytes: new TextEncoder().encode('b') }
      await expect(target.worker.put(changed)).rejects.toThrow('checksum')
    })

    when('an upload whose signal is aborted fails at once', async () => {
      await expect(target.worker.put(picture('late'), AbortSignal.abort())).rejects.toThrow()
    })

    when('a missing object reads as null, and removing a job without any is done', async () => {
      const { jobId, sha256 } = picture('nothing')
      expect(await read(`images/${jobId}/0-1-${sha256}.png`)).toBe(null)
      await target.gateway.remove(jobId)
    })

    when(
      'all objects of a removed job are gone for every way of reading, and no others',
      async () => {
        const [jobId, neighbour] = [createId('job'), await target.worker.put(picture('stays'))]
        const keys = await Promise.all(
          [0, 1, 2].map((idx) => target.worker.put(picture(`image ${idx}`, jobId, idx))),
        )
        const urls = isServer ? await Promise.all(keys.map((key) => presign(key))) : []
        await target.gateway.remove(jobId)
        await target.gateway.remove(jobId)
        expect(await Promise.all(keys.map(read))).toEqual([null, null, null])
        // S3 does not tell everybody which objects there are.
        for (const url of urls) expect([403, 404]).toContain(await statusOf(url))
        expect(await read(neighbour)).toBe('stays')
      },
    )

    when('keys of another form never reach the store', async () => {
      const key = await target.worker.put(picture('x'))
      for (const other of ['', '../x', 'images/x', `${key}/..`]) {
        await expect(target.gateway.read(other)).rejects.toThrow('unknown form')
        await expect(target.gateway.remove(other)).rejects.toThrow('unknown form')
        if (isServer) await expect(presign(other)).rejects.toThrow('unknown form')
      }
    })
  })

  describe('inputs', () => {
    when('what the gateway puts the worker reads, and both take it away', async () => {
      const [first, second] = [createId('job'), createId('job')]
      for (const jobId of [first, second])
        for (const idx of [0, 1]) await target.gateway.putInput(put(jobId, idx))
      const got = await target.worker.readInput(place(first, 1))
      expect(new Uint8Array(got ?? [])).toEqual(INPUT)
      await target.worker.removeInput(place(first, 1))
      await target.worker.removeInput(place(first, 1))
      expect(await target.worker.readInput(place(first, 1))).toBe(null)
      await target.gateway.removeInputs(first)
      await target.gateway.removeInputs(first)
      expect(await target.worker.readInput(place(first, 0))).toBe(null)
      expect(await target.worker.readInput(place(second, 0))).not.toBe(null)
      await target.gateway.remove(second)
      expect(await target.worker.readInput(place(second, 0))).toBe(null)
    })

    when('one that is not what its name says reads as gone', async () => {
      const jobId = createId('job')
      await target.gateway.putInput({ ...put(jobId, 0), bytes: new TextEncoder().encode('other') })
      expect(await target.worker.readInput(place(jobId, 0))).toBe(null)
      await target.gateway.removeInputs(jobId)
    })

    when('the oldest go first, so many at a call, and younger ones and pictures stay', async () => {
      const key = await target.worker.put(picture('stays'))
      const jobs = ['job_01a', 'job_01b', 'job_7zz'].map((head) => head.padEnd(30, '0'))
      for (const jobId of jobs.toReversed()) await target.gateway.putInput(put(jobId, 0))
      const old = { before: new Date(), limit: 1 }
      const left = async () => {
        const found = jobs.map((jobId) => target.worker.readInput(place(jobId, 0)))
        return (await Promise.all(found)).map((input) => input !== null)
      }
      expect(await target.gateway.removeOldInputs(old)).toBe(1)
      expect(await left()).toEqual([false, true, true])
      expect(await target.gateway.removeOldInputs({ ...old, limit: 10 })).toBe(1)
      expect(await target.gateway.removeOldInputs({ ...old, limit: 10 })).toBe(0)
      expect(await left()).toEqual([false, false, true])
      expect(await read(key)).toBe('stays')
    })

    when('no id leads to a key of another form', async () => {
      for (const jobId of ['', '..', 'job_1', `${createId('job')}/..`]) {
        await expect(target.gateway.putInput(put(jobId, 0))).rejects.toThrow('unknown form')
        await expect(target.gateway.removeInputs(jobId)).rejects.toThrow('unknown form')
      }
    })
  })

  describe('a server', () => {
    onServer('keeps the type of a picture and how long it may be kept by others', async () => {
      const key = await target.worker.put(picture('with its type'))
      const client = new S3Client({ ...s3(), forcePathStyle: true })
      const head = await client.send(new HeadObjectCommand({ Bucket: s3().bucket, Key: key }))
      expect(head).toMatchObject({
        ContentType: 'image/png',
        CacheControl: 'private, max-age=31536000, immutable',
      })
      client.destroy()
    })

    onServer(
      'is emptied of a job that left more objects than one page of a listing',
      async () => {
        const jobId = createId('job')
        for (let first = 0; first < 1_002; first += 100) {
          const some = Array.from({ length: Math.min(100, 1_002 - first) }, (_, index) => index)
          await Promise.all(
            some.map((index) =>
              target.worker.put({ ...picture('crumb', jobId), attempt: first + index }),
            ),
          )
        }
        const { sha256 } = picture('crumb')
        expect(await read(`images/${jobId}/0-1001-${sha256}.png`)).toBe('crumb')
        await target.gateway.remove(jobId)
        for (const attempt of [0, 1, 998, 999, 1_000, 1_001])
          expect(await read(`images/${jobId}/0-${attempt}-${sha256}.png`)).toBe(null)
      },
      MANY_MS,
    )

    onServer('serves the bytes to anybody with a presigned URL', async () => {
      const response = await fetch(await presign(await target.worker.put(picture('presigned'))))
      expect([response.status, await response.text()]).toEqual([200, 'presigned'])
      expect(response.headers.get('content-type')).toBe('image/png')
    })

    onServer('without the bucket is an error, not a lost picture', async () => {
      const elsewhere = { ...s3(), bucket: 'elsewhere' }
      await expect(createS3Store(elsewhere).put(picture('x'))).rejects.toThrow()
      await expect(createS3Store(elsewhere).readInput(place(createId('job'), 0))).rejects.toThrow()
      const key = await target.worker.put(picture('x'))
      const objects = createS3Objects({ ...elsewhere, isPublic: false })
      await expect(objects.read(key)).rejects.toThrow()
      expect('presign' in objects).toBe(false)
    })

    onServer('that cannot be reached is an error', async () => {
      const away = { ...s3(), endpoint: 'http://127.0.0.1:1' }
      const { jobId, sha256 } = picture('x')
      const objects = createS3Objects({ ...away, isPublic: true })
      await expect(objects.read(`images/${jobId}/0-1-${sha256}.png`)).rejects.toThrow()
      await expect(createS3Store(away).readInput(place(jobId, 0))).rejects.toThrow()
    })
  })

  describe('a server that checks signatures', () => {
    onStrict('refuses a presigned URL that was changed', async () => {
      const key = await target.worker.put(picture('mine'))
      const other = await target.worker.put(picture('somebody else'))
      const url = new URL(await presign(key))
      const longer = new URL(url)
      longer.searchParams.set('X-Amz-Expires', '604800')
      const elsewhere = new URL(url)
      elsewhere.pathname = elsewhere.pathname.replace(key, other)
      const forged = new URL(url)
      forged.searchParams.set('X-Amz-Signature', '0'.repeat(64))
      expect(await Promise.all([longer, elsewhere, forged].map(statusOf))).toEqual([403, 403, 403])
    })

    onStrict('ends a presigned URL with its seconds', async () => {
      const url = await presign(await target.worker.put(picture('for a second')), 1)
      await expect.poll(() => statusOf(url), { timeout: 5_000, interval: 300 }).toBe(403)
    })

    onStrict('takes wrong credentials as an error, not as a missing object', async () => {
      const one = picture('still there')
      const key = await target.worker.put(one)
      const objects = createS3Objects({ ...wrong(), isPublic: true })
      await expect(objects.read(key)).rejects.toThrow()
      await expect(objects.remove(one.jobId)).rejects.toThrow()
      await expect(objects.putInput(put(one.jobId, 0))).rejects.toThrow()
      await expect(createS3Store(wrong()).put(one)).rejects.toThrow()
      await expect(createS3Store(wrong()).readInput(place(one.jobId, 0))).rejects.toThrow()
      expect(await read(key)).toBe('still there')
    })
  })
})
