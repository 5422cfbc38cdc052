import { cp, mkdir, readFile, readdir, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, inject, test } from 'vitest'
import { closeDatabase, openDatabase } from '../../db/client.ts'
import { startBucket } from '../support/bucket.ts'
import { checkBooks } from '../support/books.ts'
import { startQueue } from '../support/queue.ts'
import { startSignedProxy } from '../support/signed-proxy.ts'
import { fetchPicture, keyIn, openStack } from '../support/stack.ts'
import type { Stack } from '../support/stack.ts'
import { MODEL_DIR } from '../support/worker.ts'

let stack: Stack
const closers: (() => Promise<unknown>)[] = []
beforeAll(async () => {
  stack = await openStack()
})
afterEach(async () => {
  await stack.stopAll()
  while (closers.length > 0) await closers.pop()?.()
})
afterAll(() => stack.close())

/** A copy of the bundled checkpoint that says of itself that it is one. */
async function copyCheckpoint(name: string): Promise<string> {
  const copy = join(stack.folder, name)
  await cp(MODEL_DIR, copy, { recursive: true })
  const path = join(copy, 'serving.json')
  const serving = JSON.parse(await readFile(path, 'utf8')) as object
  await writeFile(path, JSON.stringify({ ...serving, notice: `the checkpoint ${name}` }))
  return copy
}

async function draw(key: string): Promise<{ id: string; url: string; sha256: string }> {
  const order = { prompt: 'A sign', size: '256x256' }
  const answer = await stack.call('/v1/images/generations', key, order)
  const body = (await answer.json()) as { id: string; data: { url: string; sha256: string }[] }
  const [output] = body.data
  if (!output) throw new Error(JSON.stringify(body))
  return { ...output, id: body.id }
}

async function createEmptyDatabase(): Promise<string> {
  const name = `e2e_${process.pid}`
  const admin = openDatabase(inject('databaseUrl'), { maxConnections: 1 })
  await admin.sql`create database ${admin.sql(name)}`
  closers.push(async () => {
    await admin.sql`drop database ${admin.sql(name)} with (force)`
    await closeDatabase(admin)
  })
  return Object.assign(new URL(inject('databaseUrl')), { pathname: `/${name}` }).href
}

describe('npm start with real parts', { timeout: 180_000 }, () => {
  test('puts pictures into a bucket that checks signatures, beside the embedded queue, with a checkpoint behind a link', async () => {
    const bucket = await startBucket()
    closers.push(() => bucket.close())
    const link = join(stack.folder, 'link')
    await symlink(await copyCheckpoint('elsewhere'), link)
    // As on a full disk: a log that is lost must not end what it tells of.
    await mkdir(join(stack.stateDir, 'logs'), { recursive: true })
    if (process.platform === 'linux')
      await symlink('/dev/full', join(stack.stateDir, 'logs/worker.log'))

    const { text } = await stack.start([], { ...bucket.env, S3_PUBLIC: '1', MODEL_DIR: link })
    expect(text()).toContain('the checkpoint elsewhere')
    if (process.platform === 'linux') expect(text()).toContain('goes on without a log')
    const output = await draw(keyIn(text()))
    // The URL is the gateway's and leads to the bucket, which lets in nobody without a signature.
    expect(new URL(output.url).port).toBe(String(stack.port))
    const { bytes, finalUrl, type } = await fetchPicture(output)
    expect([finalUrl.startsWith(bucket.endpoint), type]).toEqual([true, 'image/png'])
    const unsigned = new URL(finalUrl)
    unsigned.search = ''
    expect((await fetch(unsigned)).ok).toBe(false)
    const key = unsigned.pathname.split(`/${bucket.name}/`)[1] ?? ''
    expect(key).toContain(output.sha256)
    expect(await bucket.read(key)).toEqual(bytes)
    expect(await readdir(join(stack.stateDir, 'objects'))).toEqual([])
  })

  test('works on an empty database and a queue with keys of its own, which nobody else gets', async () => {
    const queue = await startQueue()
    const own = { accessKeyId: 'of-the-queue', secretAccessKey: 'secret of the queue' }
    const proxy = await startSignedProxy(queue.env.SQS_ENDPOINT ?? '', own, 'eu-north-1')
    closers.push(
      () => queue.close(),
      () => proxy.close(),
    )
    const databaseUrl = await createEmptyDatabase()
    const dir = join(stack.folder, 'other')
    const { text } = await stack.start(['--state-dir', dir], {
      DATABASE_URL: databaseUrl,
      SQS_QUEUE_URL: queue.queueUrl,
      SQS_DLQ_URL: queue.deadLetterUrl,
      SQS_ENDPOINT: proxy.endpoint,
      SQS_REGION: 'eu-north-1',
      SQS_ACCESS_KEY_ID: own.accessKeyId,
      SQS_SECRET_ACCESS_KEY: own.secretAccessKey,
      AWS_REGION: 'us-west-2',
      AWS_ACCESS_KEY_ID: 'of-somebody',
      AWS_SECRET_ACCESS_KEY: 'else',
      AWS_SESSION_TOKEN: 'token',
      MODEL_DIR: await copyCheckpoint('copied'),
    })
    expect(text()).toContain('the checkpoint copied')
    const output = await draw(keyIn(text()))
    await fetchPicture(output)
    expect([...proxy.served]).toEqual(['sqs'])
    expect(proxy.refused).toEqual([])
    const db = openDatabase(databaseUrl, { maxConnections: 1 })
    closers.push(() => closeDatabase(db))
    expect(await db.sql`select id, state from job`).toMatchObject([
      { id: output.id, state: 'succeeded' },
    ])
    expect(await checkBooks(db)).toEqual([])
    expect(await readdir(dir)).not.toContain('postgres')
    expect(await readdir(join(dir, 'objects'))).toEqual(['images'])
  })
})
