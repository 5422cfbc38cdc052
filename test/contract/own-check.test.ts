import { compactVerify, createLocalJWKSet } from 'jose'
import type { JSONWebKeySet } from 'jose'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { FIRST_HASH, findBrokenLine, readLedger } from '../../billing/ledger-chain.ts'
import { settleJob } from '../../billing/settle.ts'
import { withTransaction } from '../../db/client.ts'
import { claimJob } from '../../db/job-claims.ts'
import { createFileObjects } from '../../edge/node/file-objects.ts'
import { createTestApp } from '../support/app.ts'
import type { TestApp } from '../support/app.ts'
import { checkBooks } from '../support/books.ts'
import { createContractCheck } from '../support/contract-check.ts'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { createBareKey, deliver, reserve } from '../support/jobs.ts'
import type { BareTenant } from '../support/jobs.ts'
import { createTenant } from '../support/tenant.ts'
import type { Tenant } from '../support/tenant.ts'
import { until } from '../support/worker.ts'

let database: TestDatabase
let tenant: Tenant
let app: TestApp
let whole: string
let part: string
const SPAN = 'from=2026-01-01T00:00:00Z&to=2027-01-01T00:00:00Z'

beforeAll(async () => {
  database = await createTestDatabase({ maxConnections: 16 })
  const { db } = database
  tenant = await createTenant(db)
  app = createTestApp(db, { objects: createFileObjects('.'), now: () => new Date('2026-11-24') })
  whole = await buy(tenant, 2, 2)
  part = await buy(tenant, 3, 1)
  await buy({ ...tenant, ...(await createBareKey(db, tenant.orgId)) }, 1, 1)
  await buy(tenant, 2, 0)
  // Somebody else's, which no answer may hold.
  await buy(await createTenant(db), 4, 4)
  await db.sql`alter table usage_event disable trigger usage_event_append_only`
  await db.sql`update usage_event set occurred_at = '2026-11-24T10:00:00Z'`
  await db.sql`alter table usage_event enable trigger usage_event_append_only`
})
afterAll(async () => {
  expect(await checkBooks(database.db)).toEqual([])
  await database.close()
})

/** A job of n pictures of which some are delivered. */
async function buy(who: BareTenant, n: number, delivered: number): Promise<string> {
  const { db } = database
  const result = await reserve(db, who, { n })
  if (!result.ok) throw new Error(result.reason)
  const { jobId } = result
  await claimJob(db, { jobId, workerId: 'w', leaseSeconds: 60, maxFailedAttempts: 3 })
  for (let idx = 0; idx < delivered; idx++) await deliver(db, jobId, 1, idx)
  await settleJob(db, {
    jobId,
    attempt: 1,
    outcome: delivered > 0 ? 'succeeded' : 'failed',
    runInfo: { weights_hash: 'w1', engine_seconds: 3 },
  })
  return jobId
}

const check = createContractCheck()
/** The answer, checked against the document. */
async function get(path: string, apiKey: string | undefined = tenant.apiKey) {
  const response = await app.call('GET', path, { apiKey })
  // oxlint-disable-next-line typescript/no-explicit-any
  return { status: response.status, body: (await check('GET', path, response)) as any }
}

async function read(jws: string): Promise<Record<string, unknown>> {
  const response = await app.call('GET', '/.well-known/jwks.json')
  const keys = createLocalJWKSet((await response.json()) as JSONWebKeySet)
  const { payload } = await compactVerify(jws, keys)
  return JSON.parse(new TextDecoder().decode(payload))
}

describe('receipts', () => {
  test('one per picture, signed by the published key, with price, seed, checksum and engine time', async () => {
    const { body } = await get(`/v1/jobs/${whole}/receipts`)
    expect(body.data).toHaveLength(2)
    expect(await read(body.data[1])).toMatchObject({
      iss: 'https://images.example',
      job: whole,
      index: 1,
      images: 1,
      org: tenant.orgId,
      weights_hash: 'w1',
      billed: true,
      reason: 'delivered',
      net: '0.015000',
      price_version: 'price_glm_image_1',
      gpu_seconds: 1.5,
      sha256: expect.stringMatching(/^[0-9a-f]{64}$/),
    })
  })

  test('what was not delivered has a receipt that says that it costs nothing', async () => {
    const { body } = await get(`/v1/jobs/${part}/receipts`)
    expect(await Promise.all(body.data.map(read))).toMatchObject([
      { index: 0, images: 1, billed: true, net: '0.015000' },
      { index: null, images: 2, billed: false, reason: 'partial', net: '0.000000' },
    ])
  })

  test('a changed receipt is refused by the published key', async () => {
    const { body } = await get(`/v1/jobs/${whole}/receipts`)
    const [head, payload, signature] = (body.data[0] as string).split('.')
    const forged = Buffer.from(payload ?? '', 'base64url')
      .toString()
      .replace('0.015', '0.010')
    const changed = [head, Buffer.from(forged).toString('base64url'), signature].join('.')
    await expect(read(changed)).rejects.toThrow('signature')
  })

  test('the pages of a span hold every charged picture of the org once', async () => {
    const seen: string[] = []
    for (let after = ''; ;) {
      const { body } = await get(`/v1/receipts?${SPAN}&limit=3${after}`)
      for (const jws of body.data) {
        const { job, index } = await read(jws)
        seen.push(`${String(job)} ${String(index)}`)
      }
      if (!body.has_more) break
      after = `&after=${body.next_after}`
    }
    expect(new Set(seen).size).toBe(4)
    expect(seen).toHaveLength(4)
  })

  test("another org's job is not there", async () => {
    const other = await createTenant(database.db)
    expect((await get(`/v1/jobs/${whole}/receipts`, other.apiKey)).status).toBe(404)
  })
})

describe('usage', () => {
  test.each(['', '&group_by=team', '&group_by=team,key,sku,size', '&bucket=hour&group_by=key'])(
    'sums with "%s" add up to what was charged',
    async (query) => {
      const { body } = await get(`/v1/usage?${SPAN}${query}`)
      const images = body.data.reduce((sum: number, row: { images: number }) => sum + row.images, 0)
      const net = body.data.reduce((sum: number, row: { net: string }) => sum + Number(row.net), 0)
      expect([images, net.toFixed(6)]).toEqual([4, '0.060000'])
    },
  )

  test('groups and buckets are named, and what was not asked for is null', async () => {
    const { body } = await get(`/v1/usage?${SPAN}&group_by=team&bucket=day`)
    expect(body.data).toHaveLength(2)
    expect(body.data).toContainEqual({
      bucket: '2026-11-24T00:00:00.000Z',
      team_id: tenant.teamId,
      key_id: null,
      sku_id: null,
      size: null,
      images: 3,
      list: '0.045000',
      discount: '0.000000',
      net: '0.045000',
      credit: '0.000000',
    })
  })

  test.each([
    ['from=2026-01-01T00:00:00Z', 'to', 'is missing'],
    ['from=2026-02-01T00:00:00Z&to=2026-01-01T00:00:00Z', 'to', 'must be after from'],
    ['from=2020-01-01T00:00:00Z&to=2026-01-01T00:00:00Z', 'to', '400 days'],
    [`${SPAN}&group_by=colour`, 'group_by', 'team, key, sku, size'],
    [`${SPAN}&bucket=week`, 'bucket', 'hour'],
  ])('%s is refused: %s %s', async (query, param, words) => {
    const { status, body } = await get(`/v1/usage?${query}`)
    expect([status, body.error.param]).toEqual([400, param])
    expect(body.error.message).toContain(words)
  })
})

/**
 * The org's chain once it has so many lines. Transactions that run elsewhere on the server at this moment, those of
 * other tests too, hold new lines back until they end.
 */
async function chainOf(orgId: string, count: number) {
  const read = async () => (await readLedger(database.db, orgId, { after: 0n, limit: 1000 })).lines
  await until(
    async () => (await read()).length >= count,
    () => `${orgId} to have ${count} lines`,
  )
  return await read()
}

describe('the chained ledger', () => {
  test('holds every entry on accounts of the org, and its hashes can be recomputed', async () => {
    await chainOf(tenant.orgId, 11)
    const first = await get('/v1/ledger?limit=5')
    expect(first.body.previous_hash).toBe(FIRST_HASH)
    const rest = await get('/v1/ledger?after=5&limit=1000')
    expect(rest.body.previous_hash).toBe(first.body.data[4].hash)
    expect([...first.body.data, ...rest.body.data].map((line) => line.seq)).toEqual(
      Array.from({ length: 11 }, (_, index) => index + 1),
    )
    const { lines } = await readLedger(database.db, tenant.orgId, { after: 0n, limit: 100 })
    expect(await findBrokenLine(FIRST_HASH, lines)).toBeNull()
    for (const index of [0, 4, 10]) {
      const forged = lines.map((line, at) =>
        at === index ? { ...line, amountMicros: line.amountMicros + 1n } : line,
      )
      expect(await findBrokenLine(FIRST_HASH, forged)).toBe(BigInt(index + 1))
    }
  })

  test('a line never comes to stand before one that was shown, however long its transaction takes', async () => {
    const { db } = database
    const own = await createTenant(db)
    const read = async () =>
      (await readLedger(db, own.orgId, { after: 0n, limit: 1000 })).lines.map(({ hash }) => hash)
    let shown: string[] = []
    let release = () => {}
    const held = new Promise<void>((resolve) => {
      release = resolve
    })
    const slow = withTransaction(db, async (tx) => {
      await tx.sql`select post_transfer('credit', 'slow', 'clearing', ${'receivable:' + own.orgId}, 5, 'posted')`
      await held
    })
    for (let count = 0; count < 5; count++) {
      await buy(own, 1, 1)
      const now = await read()
      expect(now.slice(0, shown.length)).toEqual(shown)
      shown = now
    }
    release()
    await slow
    const all = (await chainOf(own.orgId, 5 * 3 + 1)).map(({ hash }) => hash)
    expect(all.slice(0, shown.length)).toEqual(shown)
    expect(all).toHaveLength(5 * 3 + 1)
    // Undone for the books of the other tests, by a row of its own as everything in the ledger.
    await db.sql`select post_transfer('credit', 'slow-undone', ${'receivable:' + own.orgId}, 'clearing', 5, 'posted')`
  })

  test('readers at the same time chain every entry once', async () => {
    const { db } = database
    const own = await createTenant(db)
    await Promise.all(Array.from({ length: 6 }, () => buy(own, 1, 1)))
    await Promise.all(
      Array.from({ length: 8 }, () => readLedger(db, own.orgId, { after: 0n, limit: 10 })),
    )
    const lines = await chainOf(own.orgId, 18)
    expect(lines.map(({ seq }) => Number(seq))).toEqual(
      Array.from({ length: 18 }, (_, index) => index + 1),
    )
    expect(await findBrokenLine(FIRST_HASH, lines)).toBeNull()
  })

  test('entries that came from another server by a restore are chained, and new ones after them', async () => {
    const { db } = database
    const own = await createTenant(db)
    await buy(own, 1, 1)
    await db.sql`alter table ledger_entry disable trigger ledger_entry_append_only`
    await db.sql`update ledger_entry set xid = '900000000000'::text::xid8 where account_id = ${'receivable:' + own.orgId}`
    await db.sql`alter table ledger_entry enable trigger ledger_entry_append_only`
    expect(await chainOf(own.orgId, 3)).toHaveLength(3)
    await buy(own, 1, 1)
    const lines = await chainOf(own.orgId, 6)
    expect(lines).toHaveLength(6)
    expect(await findBrokenLine(FIRST_HASH, lines)).toBeNull()
  })

  test('chained lines cannot be changed', async () => {
    const { db } = database
    await expect(db.sql`update ledger_line set hash = 'x'`).rejects.toThrow('append-only')
    await expect(db.sql`delete from ledger_line`).rejects.toThrow('append-only')
  })
})
