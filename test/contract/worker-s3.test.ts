import { createHash } from 'node:crypto'
import { startFauxqs } from 'fauxqs'
import type { FauxqsServer } from 'fauxqs'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createId } from '../../db/ids.ts'
import { createS3Objects } from '../../edge/objects.ts'
import { createS3Store } from '../../gpu-worker/store.ts'

const JOB_ID = createId('job')

let server: FauxqsServer
const place = () => ({
  bucket: 'pictures',
  region: 'us-east-1',
  endpoint: server.address,
  credentials: { accessKeyId: 'test', secretAccessKey: 'test' },
})

beforeAll(async () => {
  server = await startFauxqs({ port: 0, host: '127.0.0.1', logger: false })
  server.createBucket('pictures')
})
afterAll(() => server.stop())

function picture(text: string) {
  const bytes = new TextEncoder().encode(text)
  const sha256 = createHash('sha256').update(bytes).digest('hex')
  const place = { jobId: JOB_ID, attempt: 1, idx: 0 }
  return { ...place, bytes, sha256, contentType: 'image/webp', format: 'webp' as const }
}

test('what the worker puts into a bucket the gateway reads, byte for byte, also after a repeat', async () => {
  const store = createS3Store(place())
  const key = await store.put(picture('in a bucket'))
  expect(await store.put(picture('in a bucket'))).toBe(key)
  const found = await createS3Objects({ ...place(), isPublic: false }).read(key)
  expect(found?.sizeBytes).toBe('in a bucket'.length)
  expect(await new Response(found?.body).text()).toBe('in a bucket')
})

test('what the worker takes back is gone for the gateway, and taking it back again is done', async () => {
  const store = createS3Store(place())
  const key = await store.put(picture('taken back'))
  await store.remove(key)
  await store.remove(key)
  expect(await createS3Objects({ ...place(), isPublic: false }).read(key)).toBe(null)
})

test('an upload whose signal is aborted fails at once', async () => {
  const upload = createS3Store(place()).put(picture('late'), AbortSignal.abort())
  await expect(upload).rejects.toThrow()
})

test('bytes that are not what their checksum says never leave the worker', async () => {
  const wrong = { ...picture('a'), bytes: new TextEncoder().encode('b') }
  await expect(createS3Store(place()).put(wrong)).rejects.toThrow('checksum')
})

test('a bucket that is not there is an error, not a lost picture', async () => {
  const store = createS3Store({ ...place(), bucket: 'elsewhere' })
  await expect(store.put(picture('x'))).rejects.toThrow()
})
