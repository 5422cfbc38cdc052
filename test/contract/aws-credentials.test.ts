import { createHash } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { CreateBucketCommand, S3Client } from '@aws-sdk/client-s3'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { findFreePort } from '../../infra/local/postgres.ts'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { TEST_PEPPER } from '../support/pepper.ts'
import { startQueue } from '../support/queue.ts'
import type { TestQueue } from '../support/queue.ts'
import { startSignedProxy } from '../support/signed-proxy.ts'
import type { SignedProxy } from '../support/signed-proxy.ts'
import { createTenant } from '../support/tenant.ts'
import { killAll, spawnScript, spawnWorker, until } from '../support/worker.ts'

/** Keys of a role: of use only together with their token. */
const ROLE = {
  accessKeyId: 'ASIAROLE',
  secretAccessKey: 'of the role',
  sessionToken: 'its/token==',
}
const REGION = 'eu-central-1'
const BUCKET = 'pictures'

let database: TestDatabase
let queue: TestQueue
let proxy: SignedProxy
let roleUrl: string
let folder: string
let profile: string
/** Answers as the agent does that gives containers and machines their role's keys. */
const roles = createServer((_request, response) => {
  response.setHeader('content-type', 'application/json').end(
    JSON.stringify({
      AccessKeyId: ROLE.accessKeyId,
      SecretAccessKey: ROLE.secretAccessKey,
      Token: ROLE.sessionToken,
      Expiration: new Date(Date.now() + 3_600_000).toISOString(),
    }),
  )
})

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'glyphpress-aws-'))
  profile = join(folder, 'credentials')
  const lines = [
    '[pictures]',
    `aws_access_key_id = ${ROLE.accessKeyId}`,
    `aws_secret_access_key = ${ROLE.secretAccessKey}`,
    `aws_session_token = ${ROLE.sessionToken}`,
  ]
  await writeFile(profile, lines.join('\n'))
  database = await createTestDatabase()
  queue = await startQueue()
  const endpoint = queue.env.SQS_ENDPOINT ?? ''
  const credentials = { accessKeyId: 'any', secretAccessKey: 'any' }
  const client = new S3Client({ region: REGION, endpoint, forcePathStyle: true, credentials })
  await client.send(new CreateBucketCommand({ Bucket: BUCKET }))
  client.destroy()
  proxy = await startSignedProxy(endpoint, ROLE, REGION)
  await new Promise<void>((resolve) => roles.listen(0, '127.0.0.1', resolve))
  roleUrl = `http://127.0.0.1:${(roles.address() as AddressInfo).port}/role`
})
afterEach(async () => {
  await killAll()
  queue.dropPolls()
})
afterAll(async () => {
  roles.close()
  await proxy.close()
  await queue.close()
  await database.close()
  await rm(folder, { recursive: true })
})

test.each([
  ['the role of the machine', () => ({ AWS_CONTAINER_CREDENTIALS_FULL_URI: roleUrl })],
  ['a profile', () => ({ AWS_SHARED_CREDENTIALS_FILE: profile, AWS_PROFILE: 'pictures' })],
  [
    'temporary keys',
    () => ({
      AWS_ACCESS_KEY_ID: ROLE.accessKeyId,
      AWS_SECRET_ACCESS_KEY: ROLE.secretAccessKey,
      AWS_SESSION_TOKEN: ROLE.sessionToken,
    }),
  ],
])('gateway and worker reach queue and bucket with %s', { timeout: 120_000 }, async (_, keys) => {
  const port = await findFreePort()
  const url = `http://127.0.0.1:${port}`
  const surroundings = {
    ...keys(),
    AWS_REGION: REGION,
    SQS_QUEUE_URL: queue.queueUrl,
    SQS_ENDPOINT: proxy.endpoint,
    S3_BUCKET: BUCKET,
    S3_ENDPOINT: proxy.endpoint,
  }
  const gateway = spawnScript('edge/node.ts', {
    env: {
      ...surroundings,
      DATABASE_URL: database.url,
      KEY_PEPPER: TEST_PEPPER,
      PUBLIC_URL: url,
      PORT: String(port),
    },
  })
  const bare = { ...queue, env: {} }
  await spawnWorker({ databaseUrl: database.url, queue: bare, objectDir: '', env: surroundings })
  await until(
    () => gateway.log.some(({ event }) => event === 'listening'),
    () => `the gateway to listen:\n${gateway.output()}`,
  )
  proxy.served.clear()
  const { apiKey } = await createTenant(database.db)
  const answer = await fetch(`${url}/v1/images/generations`, {
    method: 'POST',
    headers: { authorization: `Bearer ${apiKey}`, 'content-type': 'application/json' },
    body: JSON.stringify({ prompt: 'A sign', size: '256x256' }),
  })
  const { data } = (await answer.json()) as { data: { url: string; sha256: string }[] }
  const picture = await fetch(data[0]?.url ?? '')
  const bytes = new Uint8Array(await picture.arrayBuffer())
  expect(createHash('sha256').update(bytes).digest('hex')).toBe(data[0]?.sha256)
  expect([...proxy.served].toSorted()).toEqual(['s3', 'sqs'])
  expect(proxy.refused).toEqual([])
})
