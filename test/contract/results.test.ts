import { createHash, randomBytes } from 'node:crypto'
import { mkdir, mkdtemp, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { deriveSecret } from '../../db/derive.ts'
import { settleJob } from '../../billing/settle.ts'
import { claimJob, recordOutput } from '../../db/job-claims.ts'
import { errorBody, wireJob } from '../../edge/contract.ts'
import { createFileObjects } from '../../edge/node/file-objects.ts'
import { createTestApp } from '../support/app.ts'
import type { TestApp } from '../support/app.ts'
import { checkBooks } from '../support/books.ts'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { reserve } from '../support/jobs.ts'
import { TEST_PEPPER } from '../support/pepper.ts'
import { createTenant } from '../support/tenant.ts'
import type { Tenant } from '../support/tenant.ts'

let database: TestDatabase
let folder: string
let tenant: Tenant
let app: TestApp

beforeAll(async () => {
  database = await createTestDatabase()
  folder = await mkdtemp(join(tmpdir(), 'glyphpress-objects-'))
})
afterAll(async () => {
  expect(await checkBooks(database.db)).toEqual([])
  await database.close()
  await rm(folder, { recursive: true })
})
beforeEach(async () => {
  tenant = await createTenant(database.db)
  app = createTestApp(database.db, { objects: createFileObjects(folder) })
})

/** A finished job whose pictures are these bytes. */
async function finishJob(pictures: Buffer[], owner: Tenant = tenant): Promise<string> {
  const reserved = await reserve(database.db, owner, {
    n: pictures.length,
    callerFields: { metadata: { note: 'secret plan' } },
  })
  if (!reserved.ok) throw new Error(reserved.reason)
  const { jobId } = reserved
  await claimJob(database.db, { jobId, workerId: 'w', leaseSeconds: 60, maxFailedAttempts: 3 })
  for (const [idx, bytes] of pictures.entries()) {
    const sha256 = createHash('sha256').update(bytes).digest('hex')
    const objectKey = `images/${sha256.slice(0, 2)}/${sha256}.png`
    await mkdir(dirname(join(folder, objectKey)), { recursive: true })
    await writeFile(join(folder, objectKey), bytes)
    await recordOutput(database.db, {
      jobId,
      attempt: 1,
      output: {
        idx,
        objectKey,
        sha256,
        sizeBytes: bytes.length,
        contentType: 'image/png',
        width: 64,
        height: 64,
        seed: idx,
      },
    })
  }
  await settleJob(database.db, { jobId, attempt: 1, outcome: 'succeeded' })
  return jobId
}

/** Random, so that no two tests share an object. */
function picture(): Buffer {
  return randomBytes(100_000)
}

async function urlsOf(jobId: string): Promise<string[]> {
  const response = await app.call('GET', `/v1/jobs/${jobId}`, { apiKey: tenant.apiKey })
  return wireJob.parse(await response.json()).outputs.map((output) => output.url)
}

async function expectError(response: Response, status: number, type: string): Promise<void> {
  const body = errorBody.parse(await response.json())
  expect([response.status, body.error.type]).toEqual([status, type])
}

describe('result URLs', () => {
  test('where callers can reach the store they are sent there for five minutes', async () => {
    const asked: unknown[] = []
    const redirecting = createTestApp(database.db, {
      objects: {
        ...createFileObjects(folder),
        presign: async (...input) => {
          asked.push(input)
          return 'https://store.example/picture'
        },
      },
    })
    const [url = ''] = await urlsOf(await finishJob([picture()]))
    const response = await redirecting.call('GET', url)
    expect([response.status, response.headers.get('location')]).toEqual([
      302,
      'https://store.example/picture',
    ])
    expect(response.headers.get('cache-control')).toBe('no-store')
    expect(asked).toEqual([[expect.stringMatching(/^images\//), 300, 'image/png']])
    await expectError(await redirecting.call('GET', `${url}x`), 403, 'bad_signature')
    expect(asked).toHaveLength(1)
  })
})

describe('deletion', () => {
  test('prompt, metadata and bytes are gone, URLs answer 410, the charge stays', async () => {
    const bytes = picture()
    const jobId = await finishJob([bytes])
    const [url = ''] = await urlsOf(jobId)
    const response = await app.call('DELETE', `/v1/jobs/${jobId}`, { apiKey: tenant.apiKey })
    expect(await response.json()).toEqual({ id: jobId, deleted: true, objects_removed: 1 })
    await expectError(await app.call('GET', url), 410, 'gone')
    const shown = await app.call('GET', `/v1/jobs/${jobId}`, { apiKey: tenant.apiKey })
    expect(wireJob.parse(await shown.json())).toMatchObject({
      state: 'succeeded',
      prompt: null,
      metadata: {},
      outputs: [],
      billing: { billed: true, charged: '0.015000' },
    })
    const sha256 = createHash('sha256').update(bytes).digest('hex')
    await expect(stat(join(folder, `images/${sha256.slice(0, 2)}/${sha256}.png`))).rejects.toThrow()
    await expectError(
      await app.call('POST', `/v1/jobs/${jobId}/sign`, {
        apiKey: tenant.apiKey,
        body: { expires_in_seconds: 60 },
      }),
      410,
      'gone',
    )
  })

  test('an object that another live job shares is kept until that one is deleted too', async () => {
    const bytes = picture()
    const first = await finishJob([bytes])
    const stranger = await createTenant(database.db)
    const second = await finishJob([bytes, bytes], stranger)
    const mine = await app.call('DELETE', `/v1/jobs/${first}`, { apiKey: tenant.apiKey })
    expect(await mine.json()).toMatchObject({ objects_removed: 0 })
    const sha256 = createHash('sha256').update(bytes).digest('hex')
    const path = join(folder, `images/${sha256.slice(0, 2)}/${sha256}.png`)
    expect((await readFile(path)).equals(bytes)).toBe(true)
    const theirs = await app.call('DELETE', `/v1/jobs/${second}`, { apiKey: stranger.apiKey })
    expect(await theirs.json()).toMatchObject({ objects_removed: 1 })
    await expect(stat(path)).rejects.toThrow()
  })

  test('a store that fails in the middle leaves dead URLs, and a repeat finishes the work', async () => {
    const jobId = await finishJob([picture(), picture()])
    const [url = ''] = await urlsOf(jobId)
    const store = createFileObjects(folder)
    let removed = 0
    const failing = createTestApp(database.db, {
      objects: {
        ...store,
        remove: (key) =>
          ++removed > 1 ? Promise.reject(new Error('store is down')) : store.remove(key),
      },
    })
    const broken = await failing.call('DELETE', `/v1/jobs/${jobId}`, { apiKey: tenant.apiKey })
    await expectError(broken, 500, 'internal')
    await expectError(await app.call('GET', url), 410, 'gone')
    const again = await app.call('DELETE', `/v1/jobs/${jobId}`, { apiKey: tenant.apiKey })
    expect(await again.json()).toMatchObject({ deleted: true, objects_removed: 2 })
    const rows = await database.db.sql<{ object_key: string }[]>`
      select object_key from job_output where job_id = ${jobId}`
    for (const { object_key: key } of rows) await expect(stat(join(folder, key))).rejects.toThrow()
  })
})

describe('file store', () => {
  test('no key leads out of the folder', async () => {
    const store = createFileObjects(folder)
    const hash = 'a'.repeat(64)
    const keys = [
      '../secret',
      '/etc/passwd',
      `images/../../${hash}.png`,
      `images/aa/../../../etc/passwd`,
      `images/aa/${hash}.png/../../x`,
      `images/aa/${hash}.png\0.txt`,
      `images\\aa\\${hash}.png`,
      `images/AA/${hash}.png`,
      `images/aa/${hash}.exe`,
      '',
    ]
    for (const key of keys) {
      await expect(store.read(key)).rejects.toThrow('unknown form')
      await expect(store.remove(key)).rejects.toThrow('unknown form')
    }
  })

  test('a link in place of a picture is not followed', async () => {
    const key = `images/bb/${'b'.repeat(64)}.png`
    await mkdir(join(folder, 'images/bb'), { recursive: true })
    await symlink('/etc/passwd', join(folder, key))
    await expect(createFileObjects(folder).read(key)).rejects.toThrow()
  })

  test('a missing object reads as null, and removing it again is done', async () => {
    const store = createFileObjects(join(folder, 'nowhere'))
    const key = `images/cc/${'c'.repeat(64)}.png`
    expect(await store.read(key)).toBe(null)
    await store.remove(key)
  })
})

test('the poke of a worker is admitted by its derived secret alone', async () => {
  const secret = await deriveSecret(TEST_PEPPER, 'internal')
  const poke = (headers: Record<string, string>) => app.call('POST', '/internal/poke', { headers })
  expect((await poke({ authorization: `Bearer ${secret}` })).status).toBe(202)
  expect(app.pokes()).toBe(1)
  await expectError(await poke({}), 401, 'key_missing')
  await expectError(await poke({ authorization: `Bearer ${secret}0` }), 401, 'key_invalid')
  await expectError(await poke({ authorization: `Bearer ${tenant.apiKey}` }), 401, 'key_invalid')
  expect(app.pokes()).toBe(1)
})
