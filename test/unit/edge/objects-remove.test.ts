import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createId } from '../../../db/ids.ts'
import { createS3Objects } from '../../../edge/objects.ts'

const OBJECTS = 100
/** Sockets of the SDK; who waits for one has its time running already. */
const SOCKETS = 50
const jobId = createId('job')
const left = new Set(
  Array.from(
    { length: OBJECTS },
    (_, attempt) => `images/${jobId}/0-${attempt}-${'0'.repeat(64)}.png`,
  ),
)
let inHand = 0
let most = 0

/** A store that takes each call into its hand for a while. */
const server = createServer((request, response) => {
  const { pathname, searchParams } = new URL(request.url ?? '/', 'http://store')
  if (request.method !== 'DELETE') {
    const found = [...left].filter((key) => key.startsWith(searchParams.get('prefix') ?? ''))
    const contents = found.map((key) => `<Contents><Key>${key}</Key></Contents>`).join('')
    response.setHeader('content-type', 'application/xml')
    response.end(`<ListBucketResult>${contents}</ListBucketResult>`)
    return
  }
  inHand += 1
  most = Math.max(most, inHand)
  setTimeout(() => {
    inHand -= 1
    left.delete(decodeURIComponent(pathname).replace('/pictures/', ''))
    response.writeHead(204).end()
  }, 200)
})

beforeAll(async () => {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
})
afterAll(() => {
  server.close()
})

test('a job of many objects is removed in calls that never wait for a socket', async () => {
  const store = createS3Objects({
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    region: 'auto',
    bucket: 'pictures',
    credentials: { accessKeyId: 'access', secretAccessKey: 'secret' },
    isPublic: false,
  })
  await store.remove(jobId)
  expect(left.size).toBe(0)
  expect(most).toBeGreaterThan(1)
  expect(most).toBeLessThan(SOCKETS)
})
