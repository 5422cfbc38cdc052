import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { CreateBucketCommand, S3Client } from '@aws-sdk/client-s3'
import { findFreePort } from '../../infra/local/postgres.ts'
import { parseNodeEnv } from '../../edge/env.ts'
import { createFileObjects } from '../../edge/node/file-objects.ts'
import { startGateway } from '../../edge/node/server.ts'
import { createS3Objects } from '../../edge/objects.ts'
import type { ObjectStore } from '../../edge/objects.ts'
import { createFileStore, createS3Store } from '../../gpu-worker/store.ts'
import type { PictureStore } from '../../gpu-worker/store.ts'
import { createContractCheck } from './contract-check.ts'
import { createTestDatabase } from './database.ts'
import type { TestDatabase } from './database.ts'
import { startFinisher } from './finisher.ts'
import type { Finisher } from './finisher.ts'
import { TEST_PEPPER } from './pepper.ts'
import { startQueue } from './queue.ts'
import type { TestQueue } from './queue.ts'
import { startWorkerGateway } from './worker-gateway.ts'

export type Runtime = 'node' | 'workerd'

export interface CallOptions {
  /** Sent as Bearer token. */
  key?: string
  /** Sent as JSON, or as it is when it is a string or a form. */
  body?: unknown
  headers?: Record<string, string>
  signal?: AbortSignal
}

export interface Answer {
  status: number
  headers: Headers
  /** Checked against the schema that the document gives for this route and status. */
  body: any // oxlint-disable-line typescript/no-explicit-any
}

export interface TestGateway {
  url: string
  database: TestDatabase
  queue: TestQueue
  finisher: Finisher
  /** Where workers put pictures, and where this gateway finds them. */
  store: PictureStore
  objects: ObjectStore
  /** Where they lie on Node; empty on workerd. */
  folder: string
  /** What the gateway logged; stays empty on workerd. */
  logged: Record<string, unknown>[]
  /** One call; throws when the answer is not what the document promises for it. */
  call(method: string, path: string, options?: CallOptions): Promise<Answer>
  stopGateway(): Promise<void>
  close(): Promise<void>
}

const BUCKET = 'pictures'
/** More calls in ten seconds than any suite makes. */
const NO_SHIELD = 1_000_000

/** A running gateway with its own database, queue, object store and a finisher in the worker's place. */
export async function startTestGateway(
  options: { runtime?: Runtime; env?: Record<string, string> } = {},
): Promise<TestGateway> {
  const database = await createTestDatabase()
  const queue = await startQueue()
  const folder = await mkdtemp(join(tmpdir(), 'glyphpress-objects-'))
  const logged: Record<string, unknown>[] = []
  const vars = {
    ...queue.env,
    DATABASE_URL: database.url,
    KEY_PEPPER: TEST_PEPPER,
    ...options.env,
  }
  const isNode = (options.runtime ?? 'node') === 'node'
  const gateway = isNode
    ? await startOnNode({ ...vars, OBJECT_DIR: folder }, logged)
    : await startWorkerGateway(
        {
          ...vars,
          PUBLIC_URL: 'http://127.0.0.1',
          S3_BUCKET: BUCKET,
          S3_ENDPOINT: queue.env.SQS_ENDPOINT ?? '',
          S3_PUBLIC: '0',
        },
        // A suite is one address that calls as fast as its machine can; the shield has a test of its own.
        { shieldLimit: NO_SHIELD },
      )
  const store = isNode ? createFileStore(folder) : await createBucket(queue)
  const objects = isNode
    ? createFileObjects(folder)
    : createS3Objects({ ...placeOf(queue), bucket: BUCKET, isPublic: false })
  const finisher = startFinisher(database.db, queue, store)
  const check = createContractCheck()
  return {
    url: gateway.url,
    database,
    queue,
    finisher,
    store,
    objects,
    folder,
    logged,
    async call(method, path, { key, body, headers = {}, signal } = {}) {
      const isForm = body instanceof FormData
      const response = await fetch(new URL(path, gateway.url), {
        method,
        ...(signal === undefined ? {} : { signal }),
        headers: {
          ...(key === undefined ? {} : { authorization: `Bearer ${key}` }),
          ...(body === undefined || isForm ? {} : { 'content-type': 'application/json' }),
          ...headers,
        },
        ...(body === undefined
          ? {}
          : { body: typeof body === 'string' || isForm ? body : JSON.stringify(body) }),
      })
      return {
        status: response.status,
        headers: response.headers,
        body: await check(method, path, response),
      }
    },
    stopGateway: () => gateway.stop(),
    async close() {
      await gateway.stop()
      await finisher.stop()
      await queue.close()
      await database.close()
      await rm(folder, { recursive: true, force: true })
    },
  }
}

async function startOnNode(
  vars: Record<string, string>,
  logged: Record<string, unknown>[],
): Promise<{ url: string; stop(): Promise<void> }> {
  const port = await findFreePort()
  const env = parseNodeEnv({
    PORT: String(port),
    PUBLIC_URL: `http://127.0.0.1:${port}`,
    ...vars,
  })
  return startGateway(env, (entry) => logged.push(entry))
}

async function createBucket(queue: TestQueue): Promise<PictureStore> {
  const place = placeOf(queue)
  const client = new S3Client({ ...place, forcePathStyle: true })
  await client.send(new CreateBucketCommand({ Bucket: BUCKET }))
  client.destroy()
  return createS3Store({ ...place, bucket: BUCKET })
}

/** The queue's server keeps objects too. */
function placeOf(queue: TestQueue) {
  return {
    region: 'us-east-1',
    endpoint: queue.env.SQS_ENDPOINT ?? '',
    credentials: { accessKeyId: 'test', secretAccessKey: 'test' },
  }
}
