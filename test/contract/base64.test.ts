import { createHash, randomBytes } from 'node:crypto'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { settleJob } from '../../billing/settle.ts'
import { claimJob, recordOutput } from '../../db/job-claims.ts'
import type { StoredObject } from '../../edge/objects.ts'
import { NO_OBJECTS, createTestApp } from '../support/app.ts'
import type { TestApp } from '../support/app.ts'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { createTenant } from '../support/tenant.ts'
import type { Tenant } from '../support/tenant.ts'

/** Answers in base 64 whose pictures the store does not give; what works is in gateway.test.ts. */
const BODY = { prompt: 'A sign', n: 2, response_format: 'b64_json' }

let database: TestDatabase
let tenant: Tenant
let app: TestApp
let opened: string[]
let canceled: number
/** What the store does about its nth reading. */
let store: (nth: number) => StoredObject | null

beforeAll(async () => {
  database = await createTestDatabase()
})
afterAll(() => database.close())
beforeEach(async () => {
  tenant = await createTenant(database.db)
  opened = []
  canceled = 0
  store = () => stored([randomBytes(10)])
  app = createTestApp(database.db, {
    objects: {
      ...NO_OBJECTS,
      read: async (key) => store(opened.push(key)),
    },
    // The doorbell does the work of a worker.
    queue: { send: ({ jobId }) => draw(jobId) },
  })
})

/** An object that gives these pieces and then waits for ever. */
function stored(pieces: Uint8Array[], isWhole = true): StoredObject {
  const body = new ReadableStream<Uint8Array>({
    pull(controller) {
      const piece = pieces.shift()
      if (piece) controller.enqueue(piece)
      else if (isWhole) controller.close()
    },
    cancel() {
      canceled += 1
    },
  })
  return { body, sizeBytes: 10 }
}

async function draw(jobId: string): Promise<void> {
  const { db } = database
  await claimJob(db, { jobId, workerId: 'w', leaseSeconds: 60, maxFailedAttempts: 3 })
  for (const idx of [0, 1]) {
    const sha256 = createHash('sha256').update(`${jobId} ${idx}`).digest('hex')
    const objectKey = `images/${sha256.slice(0, 2)}/${sha256}.png`
    const picture = { sizeBytes: 10, contentType: 'image/png', width: 64, height: 64, seed: idx }
    const output = { idx, objectKey, sha256, ...picture }
    await recordOutput(db, { jobId, attempt: 1, output })
  }
  await settleJob(db, { jobId, attempt: 1, outcome: 'succeeded' })
}

const order = () =>
  app.call('POST', '/v1/images/generations', { apiKey: tenant.apiKey, body: BODY })

async function jobs(): Promise<string[]> {
  const rows = await database.db.sql<{ id: string }[]>`
    select id from job where org_id = ${tenant.orgId}`
  return rows.map(({ id }) => id)
}

describe('a store that cannot be reached', () => {
  test('is a 503 before the answer begins; the same call again gets the pictures, which are paid once', async () => {
    const give = store
    store = () => {
      throw new Error('the store is down')
    }
    const refused = await order()
    const body = (await refused.json()) as { task_id: string; request_id: string }
    expect([refused.status, await jobs()]).toEqual([503, [body.task_id]])
    expect(app.logged).toContainEqual({
      level: 'warn',
      event: 'picture_unreadable',
      request_id: body.request_id,
      job_id: body.task_id,
      error: 'Error: the store is down',
    })
    store = give
    const again = await order()
    expect(await again.json()).toMatchObject({ id: body.task_id })
    expect(await jobs()).toEqual([body.task_id])
  })

  test('in the middle of an answer cuts it off, says so in the log, and leaves the job to the next call', async () => {
    const give = store
    store = (nth) => (nth === 2 ? null : give(nth))
    const broken = await order()
    expect(broken.status).toBe(200)
    await expect(broken.text()).rejects.toThrow('is missing')
    const [jobId] = await jobs()
    expect(app.logged).toContainEqual({
      level: 'warn',
      event: 'picture_unreadable',
      request_id: broken.headers.get('x-request-id'),
      job_id: jobId,
      error: expect.stringContaining('is missing'),
    })
    store = give
    expect(await (await order()).json()).toMatchObject({ id: jobId })
  })
})

describe('a caller that hangs up', () => {
  test.each([
    ['before the first byte', 0],
    ['in the middle of a picture', 2],
  ])('%s leaves no stream of the store open, and its job to the next call', async (_, pieces) => {
    const give = store
    store = () => stored([randomBytes(10)], false)
    const answer = await order()
    const reader = answer.body?.getReader()
    for (let count = 0; count < pieces; count++) await reader?.read()
    await reader?.cancel()
    expect([opened.length, canceled]).toEqual([1, 1])
    const [jobId] = await jobs()
    store = give
    expect(await (await order()).json()).toMatchObject({ id: jobId })
  })
})
