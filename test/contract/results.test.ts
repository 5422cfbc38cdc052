import { createHash, randomBytes } from 'node:crypto'
import { mkdir, mkdtemp, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { deriveSecret } from '../../db/derive.ts'
import { settleJob } from '../../billing/settle.ts'
import { createId } from '../../db/ids.ts'
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
    const objectKey = `images/${jobId}/${idx}-1-${sha256}.png`
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
    const jobId = await finishJob([picture()])
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
    await expect(stat(join(folder, 'images', jobId))).rejects.toThrow()
    await expectError(
      await app.call('POST', `/v1/jobs/${jobId}/sign`, {
        apiKey: tenant.apiKey,
        body: { expires_in_seconds: 60 },
      }),
      410,
      'gone',
    )
  })

  test('of one job leaves equal pictures of another, and of two at once leaves nothing', async () => {
    const bytes = picture()
    const stranger = await createTenant(database.db)
    const [first, second] = [await finishJob([bytes, bytes]), await finishJob([bytes], stranger)]
    const [third, fourth] = [await finishJob([bytes]), await finishJob([bytes])]
    const remove = (jobId: string, { apiKey }: Tenant) =>
      app.call('DELETE', `/v1/jobs/${jobId}`, { apiKey })
    const mine = await remove(first, tenant)
    expect(await mine.json()).toMatchObject({ objects_removed: 2 })
    const [theirs] = await database.db.sql<{ key: string }[]>`
      select object_key as key from job_output where job_id = ${second}`
    expect((await readFile(join(folder, theirs?.key ?? ''))).equals(bytes)).toBe(true)
    await Promise.all([remove(third, tenant), remove(fourth, tenant), remove(second, stranger)])
    for (const jobId of [first, second, third, fourth])
      await expect(stat(join(folder, 'images', jobId))).rejects.toThrow('ENOENT')
  })

  test('takes what a crashed worker has stored and never noted', async () => {
    const jobId = await finishJob([picture()])
    const lost = join(folder, 'images', jobId, `0-2-${'a'.repeat(64)}.png`)
    await writeFile(lost, picture())
    await writeFile(`${lost}.part`, picture())
    await app.call('DELETE', `/v1/jobs/${jobId}`, { apiKey: tenant.apiKey })
    await expect(stat(lost)).rejects.toThrow('ENOENT')
    await expect(stat(`${lost}.part`)).rejects.toThrow('ENOENT')
  })

  test('repeated, keeps the moment of the first', async () => {
    const jobId = await finishJob([picture()])
    const remove = () => app.call('DELETE', `/v1/jobs/${jobId}`, { apiKey: tenant.apiKey })
    const moments = () => database.db.sql`
      select j.deleted_at as job, o.deleted_at as image
        from job j join job_output o on o.job_id = j.id where j.id = ${jobId}`
    await remove()
    const first = await moments()
    expect(await (await remove()).json()).toMatchObject({ deleted: true, objects_removed: 1 })
    expect(await moments()).toEqual(first)
  })

  test('a store that fails leaves dead URLs, and a repeat finishes the work', async () => {
    const jobId = await finishJob([picture(), picture()])
    const [url = ''] = await urlsOf(jobId)
    const failing = createTestApp(database.db, {
      objects: {
        ...createFileObjects(folder),
        remove: () => Promise.reject(new Error('store is down')),
      },
    })
    const broken = await failing.call('DELETE', `/v1/jobs/${jobId}`, { apiKey: tenant.apiKey })
    await expectError(broken, 500, 'internal')
    await expectError(await app.call('GET', url), 410, 'gone')
    const again = await app.call('DELETE', `/v1/jobs/${jobId}`, { apiKey: tenant.apiKey })
    expect(await again.json()).toMatchObject({ deleted: true, objects_removed: 2 })
    await expect(stat(join(folder, 'images', jobId))).rejects.toThrow('ENOENT')
  })
})

describe('file store', () => {
  test('no key leads out of the folder', async () => {
    const store = createFileObjects(folder)
    const hash = 'a'.repeat(64)
    const jobId = createId('job')
    const keys = [
      '../secret',
      '/etc/passwd',
      `images/../../0-1-${hash}.png`,
      `images/${jobId}/../../../etc/passwd`,
      `images/${jobId}/0-1-${hash}.png/../../x`,
      `images/${jobId}/0-1-${hash}.png\0.txt`,
      `images\\${jobId}\\0-1-${hash}.png`,
      `images/${jobId.toUpperCase()}/0-1-${hash}.png`,
      `images/${jobId}/0-1-${hash}.exe`,
      `images/${jobId}/${hash}.png`,
      `images/job_1/0-1-${hash}.png`,
      '',
    ]
    for (const key of keys) await expect(store.read(key)).rejects.toThrow('unknown form')
    for (const id of ['', '.', '..', `${jobId}/..`, `${jobId}/`, 'job_1', '../images'])
      await expect(store.remove(id)).rejects.toThrow('unknown form')
  })

  test('a link in place of a picture is not followed', async () => {
    const jobId = createId('job')
    const key = `images/${jobId}/0-1-${'b'.repeat(64)}.png`
    await mkdir(join(folder, 'images', jobId), { recursive: true })
    await symlink('/etc/passwd', join(folder, key))
    await expect(createFileObjects(folder).read(key)).rejects.toThrow()
  })

  test('a missing object reads as null, and removing the objects of a job without any is done', async () => {
    const store = createFileObjects(join(folder, 'nowhere'))
    const jobId = createId('job')
    expect(await store.read(`images/${jobId}/0-1-${'c'.repeat(64)}.png`)).toBe(null)
    await store.remove(jobId)
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
