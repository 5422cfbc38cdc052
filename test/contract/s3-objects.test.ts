import { GetObjectCommand, PutObjectCommand } from '@aws-sdk/client-s3'
import { createHash } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createId } from '../../db/ids.ts'
import { createS3Objects } from '../../edge/objects.ts'
import type { S3Settings } from '../../edge/objects.ts'
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
