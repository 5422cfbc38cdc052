import { GetObjectCommand, PutObjectCommand } from '@aws-sdk/client-s3'
import { createHash } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createId } from '../../db/ids.ts'
import { createS3Objects } from '../../edge/objects.ts'
import type { S3Settings } from '../../edge/objects.ts'
import { createS3Store } from '../../gpu-worker/store.ts'
import { startBucket } from '../support/bucket.ts'
import type { TestBucket } from '../support/bucket.ts'

const BYTES = Buffer.from('the bytes of a picture')
const JOB_ID = createId('job')
const KEY = keyOf(BYTES)
let server: TestBucket

function keyOf(bytes: Buffer, jobId = JOB_ID): string {
  const sha256 = createHash('sha256').update(bytes).digest('hex')
  return `images/${jobId}/0-1-${sha256}.png`
}

beforeAll(async () => {
  server = await startBucket()
  await put(BYTES)
})
afterAll(() => server.close())

async function put(bytes: Buffer, jobId = JOB_ID): Promise<string> {
  const key = keyOf(bytes, jobId)
  await server.client.send(
    new PutObjectCommand({ Bucket: 'pictures', Key: key, Body: bytes, ContentType: 'image/png' }),
  )
  return key
}

function store(changes: Partial<S3Settings> = {}) {
  return createS3Objects({
    bucket: server.name,
    region: server.region,
    endpoint: server.endpoint,
    credentials: server.credentials,
    isPublic: true,
    ...changes,
  })
}

async function presigned(seconds = 60): Promise<string> {
  const url = await store().presign?.(KEY, seconds, 'image/png')
  if (url === undefined) throw new Error('the store does not presign')
  return url
}

describe('S3 store', () => {
  test('streams an object with its size', async () => {
    const stored = await store().read(KEY)
    expect(stored?.sizeBytes).toBe(BYTES.length)
    expect(await new Response(stored?.body).text()).toBe(BYTES.toString())
  })

  test('a missing object reads as null, and removing the objects of a job without any is done', async () => {
    expect(await store().read(keyOf(Buffer.from('nothing')))).toBe(null)
    await store().remove(createId('job'))
  })

  test('the objects of a removed job are gone for every way of reading, all of them and no others', async () => {
    const jobId = createId('job')
    const key = await put(Buffer.from('to be removed'), jobId)
    const second = await put(Buffer.from('never noted by its worker'), jobId)
    const url = (await store().presign?.(key, 60, 'image/png')) ?? ''
    await store().remove(jobId)
    await store().remove(jobId)
    expect(await store().read(second)).toBe(null)
    expect(await store().read(KEY)).not.toBe(null)
    expect(await store().read(key)).toBe(null)
    const response = await fetch(url)
    expect(response.status).toBe(404)
    await response.body?.cancel()
    await expect(
      server.client.send(new GetObjectCommand({ Bucket: 'pictures', Key: key })),
    ).rejects.toThrow()
  })

  test('a presigned URL serves the bytes to anybody', async () => {
    const response = await fetch(await presigned())
    expect([response.status, await response.text()]).toEqual([200, BYTES.toString()])
  })

  test('a presigned URL that was changed is refused by the server', async () => {
    const url = new URL(await presigned())
    const other = await put(Buffer.from('somebody else'))
    const longer = new URL(url)
    longer.searchParams.set('X-Amz-Expires', '604800')
    const elsewhere = new URL(url)
    elsewhere.pathname = elsewhere.pathname.replace(KEY, other)
    const forged = new URL(url)
    forged.searchParams.set('X-Amz-Signature', '0'.repeat(64))
    for (const changed of [longer, elsewhere, forged]) {
      const response = await fetch(changed)
      expect(response.status).toBe(403)
      await response.body?.cancel()
    }
  })

  test('a presigned URL ends with its seconds', async () => {
    const url = new URL(await presigned(1))
    expect(url.searchParams.get('X-Amz-Expires')).toBe('1')
    await expect
      .poll(
        async () => {
          const response = await fetch(url)
          await response.body?.cancel()
          return response.status
        },
        { timeout: 5_000, interval: 300 },
      )
      .toBe(403)
  })

  test('wrong credentials are an error, not a missing object', async () => {
    const wrong = store({ credentials: { accessKeyId: 'access', secretAccessKey: 'wrong' } })
    await expect(wrong.read(KEY)).rejects.toThrow()
    await expect(wrong.remove(JOB_ID)).rejects.toThrow()
    expect(await store().read(KEY)).not.toBe(null)
  })

  test('a store that cannot be reached is an error', async () => {
    await expect(store({ endpoint: 'http://127.0.0.1:1' }).read(KEY)).rejects.toThrow()
  })

  test('a bucket that callers cannot reach offers no presigned URLs', () => {
    expect('presign' in store({ isPublic: false })).toBe(false)
  })

  test('keys of another form never reach the server', async () => {
    for (const key of ['', '../x', 'images/x', `${KEY}/..`]) {
      await expect(store().read(key)).rejects.toThrow('unknown form')
      await expect(store().remove(key)).rejects.toThrow('unknown form')
      await expect(store().presign?.(key, 60, 'image/png')).rejects.toThrow('unknown form')
    }
  })
})

describe('S3 store of inputs', () => {
  const bytes = Buffer.from('the bytes of an input')
  const image = {
    sha256: createHash('sha256').update(bytes).digest('hex'),
    format: 'webp' as const,
    sizeBytes: bytes.length,
    width: 64,
    height: 64,
  }
  const worker = () =>
    createS3Store({
      bucket: server.name,
      region: server.region,
      endpoint: server.endpoint,
      credentials: server.credentials,
    })

  test('what the gateway puts in the worker reads by its checksum, and both take it away', async () => {
    const [first, second] = [createId('job'), createId('job')]
    for (const jobId of [first, second]) {
      for (const idx of [0, 1]) await store().putInput({ jobId, idx, image, bytes })
    }
    const place = (jobId: string, idx: number) => ({ jobId, idx, image })
    expect(Buffer.from((await worker().readInput(place(first, 1))) ?? [])).toEqual(bytes)
    await worker().removeInput(place(first, 1))
    await worker().removeInput(place(first, 1))
    expect(await worker().readInput(place(first, 1))).toBe(null)
    await store().removeInputs(first)
    await store().removeInputs(first)
    expect(await worker().readInput(place(first, 0))).toBe(null)
    expect(await worker().readInput(place(second, 0))).not.toBe(null)
    await store().remove(second)
    expect(await worker().readInput(place(second, 0))).toBe(null)
    expect(await store().read(KEY)).not.toBe(null)
  })

  test('an input that is not what its name says reads as gone', async () => {
    const jobId = createId('job')
    await store().putInput({ jobId, idx: 0, image, bytes: Buffer.from('something else') })
    expect(await worker().readInput({ jobId, idx: 0, image })).toBe(null)
    await store().removeInputs(jobId)
  })

  test('the oldest inputs go first, so many at a call, and younger ones and pictures stay', async () => {
    const jobs = ['job_01a', 'job_01b', 'job_7zz'].map((head) => head.padEnd(30, '0'))
    for (const jobId of jobs.toReversed()) await store().putInput({ jobId, idx: 0, image, bytes })
    const old = { before: new Date(), limit: 1 }
    const left = async () => {
      const found = await Promise.all(
        jobs.map((jobId) => worker().readInput({ jobId, idx: 0, image })),
      )
      return found.map((input) => input !== null)
    }
    expect(await store().removeOldInputs(old)).toBe(1)
    expect(await left()).toEqual([false, true, true])
    expect(await store().removeOldInputs({ ...old, limit: 10 })).toBe(1)
    expect(await store().removeOldInputs({ ...old, limit: 10 })).toBe(0)
    expect(await left()).toEqual([false, false, true])
    expect(await store().read(KEY)).not.toBe(null)
  })

  test('wrong credentials and a store that is away are errors, not a missing input', async () => {
    const jobId = createId('job')
    const wrong = { accessKeyId: 'access', secretAccessKey: 'wrong' }
    await expect(
      store({ credentials: wrong }).putInput({ jobId, idx: 0, image, bytes }),
    ).rejects.toThrow()
    const away = createS3Store({
      bucket: 'x',
      region: 'auto',
      endpoint: 'http://127.0.0.1:1',
      credentials: wrong,
    })
    await expect(away.readInput({ jobId, idx: 0, image })).rejects.toThrow()
  })

  test('no id leads to a key of another form', async () => {
    for (const jobId of ['', '..', 'job_1', `${JOB_ID}/..`]) {
      await expect(store().putInput({ jobId, idx: 0, image, bytes })).rejects.toThrow(
        'unknown form',
      )
      await expect(store().removeInputs(jobId)).rejects.toThrow('unknown form')
    }
  })
})
