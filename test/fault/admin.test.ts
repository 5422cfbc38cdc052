import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { quotePrice } from '../../billing/price.ts'
import { settleJob } from '../../billing/settle.ts'
import { claimJob } from '../../db/job-claims.ts'
import { findKeyByHash } from '../../db/keys.ts'
import { hashApiKey } from '../../edge/api-key.ts'
import { admin as run, adminJson } from '../support/admin.ts'
import { checkBooks } from '../support/books.ts'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { createBareTenant, deliver, newJob, reserve } from '../support/jobs.ts'
import type { BareTenant } from '../support/jobs.ts'
import { TEST_PEPPER } from '../support/pepper.ts'

let database: TestDatabase
let env: { DATABASE_URL: string; KEY_PEPPER: string }
beforeAll(async () => {
  database = await createTestDatabase()
  env = { DATABASE_URL: database.url, KEY_PEPPER: TEST_PEPPER }
})
afterAll(async () => {
  expect(await checkBooks(database.db)).toEqual([])
  await database.close()
})

const admin = (...typed: string[]) => run(env, ...typed)
const json = (...typed: string[]) => adminJson(env, ...typed)

let names = 0
async function makeOrg(mode: string): Promise<string> {
  return (await json('org', 'create', '--name', `Org ${(names += 1)}`, '--mode', mode)).id
}

/** A job with `n` images, all delivered. */
async function buy(tenant: BareTenant, n: number): Promise<string> {
  const { db } = database
  const result = await reserve(db, tenant, { n })
  if (!result.ok) throw new Error(result.reason)
  const { jobId } = result
  await claimJob(db, { jobId, workerId: 'w', leaseSeconds: 60, maxFailedAttempts: 3 })
  for (let idx = 0; idx < n; idx++) await deliver(db, jobId, 1, idx)
  await settleJob(db, { jobId, attempt: 1, outcome: 'succeeded' })
  return jobId
}

/** Org, team and key, all by commands. */
async function tenantOf(mode: string): Promise<BareTenant> {
  const orgId = await makeOrg(mode)
  const { id: teamId } = await json('team', 'create', '--org', orgId, '--name', 'Design')
  const { id: keyId } = await json('key', 'create', '--org', orgId)
  return { orgId, teamId, keyId }
}

describe('organisations and teams', () => {
  test('a name makes one organisation, however often it is asked for', async () => {
    const first = await json('org', 'create', '--name', 'Once', '--mode', 'internal')
    const again = await admin('org', 'create', '--name', 'Once', '--mode', 'internal')
    expect(again).toMatchObject({ code: 1, out: '' })
    expect(again.err).toContain(`--name: ${first.id} is called "Once" already`)
    const listed: { name: string }[] = await json('org', 'list')
    expect(listed.filter(({ name }) => name === 'Once')).toHaveLength(1)
  })

  test('names stand for ids where they are clear, and are refused where not', async () => {
    const [one, two] = [await makeOrg('internal'), await makeOrg('internal')]
    for (const org of [one, two]) await json('team', 'create', '--org', org, '--name', 'Twins')
    expect((await json('org', 'show', `Org ${names}`)).id).toBe(two)
    const unclear = await admin('limit', 'set', '--team', 'Twins', '--month', '1')
    expect(unclear.code).toBe(1)
    expect(unclear.err).toContain('--team: more than one team is called "Twins"; give an id: team_')
    const clear = await json('limit', 'set', '--org', two, '--team', 'Twins', '--month', '1')
    const [team] = await json('team', 'list', '--org', two)
    expect(clear).toMatchObject({ scope: 'team', id: team.id, month_limit: '1.000000' })
    const stranger = await admin('team', 'list', '--org', 'Nobody')
    expect(stranger).toMatchObject({ code: 1, err: '--org: there is no organisation "Nobody"' })
  })

  test('a cost centre is one team of an organisation; it can be named anew', async () => {
    const org = await makeOrg('internal')
    const made = await json('team', 'create', '--org', org, '--name', 'A', '--cost-centre', 'C-1')
    const taken = await admin('team', 'create', '--org', org, '--name', 'B', '--cost-centre', 'C-1')
    expect(taken.code).toBe(1)
    expect(taken.err).toBe('--cost-centre: the organisation has a team with "C-1" already')
    await json('team', 'create', '--org', org, '--name', 'C-2')
    const clash = await admin('team', 'set', made.id, '--cost-centre', 'C-2')
    expect(clash).toMatchObject({ code: 1, err: expect.stringContaining('"C-2" already') })
    expect(await json('team', 'set', made.id, '--cost-centre', 'C-3')).toMatchObject({
      name: 'A',
      cost_centre: 'C-3',
    })
    expect((await admin('team', 'set', made.id)).code).toBe(2)
  })

  test('a frozen organisation shows why', async () => {
    const org = await makeOrg('postpaid')
    await database.db
      .sql`update org set frozen_at = now(), frozen_reason = 'unpaid_invoice' where id = ${org}`
    expect(await json('org', 'show', org)).toMatchObject({ frozen: 'unpaid_invoice' })
  })
})

describe('keys', () => {
  test('rotation gives a key that is like the old one, which ends when it was said to', async () => {
    const { orgId, teamId } = await tenantOf('internal')
    const old = await json(
      ...'key create --name ci --scopes read,generate --test --month 2 --day 1 --max-inflight 3'.split(
        ' ',
      ),
      ...`--requests-per-minute 7 --org ${orgId}`.split(' '),
    )
    await json('key', 'tag', old.id, '--tags', 'project=spring')
    const made = await json('key', 'rotate', old.id, '--overlap', '2h')
    expect(made.key).toMatch(/^gp_test_/)
    expect(made.key).not.toBe(old.key)
    const same = { name: 'ci', kind: 'test', state: 'active', tags: { project: 'spring' } }
    expect(made).toMatchObject({ ...same, scopes: ['generate', 'read'], team_id: teamId })
    const leftMs = Date.parse(made.old_expires_at) - Date.now()
    expect(leftMs).toBeGreaterThan(7_100_000)
    expect(leftMs).toBeLessThanOrEqual(7_205_000)
    expect(await json('limit', 'show', made.id)).toMatchObject({
      day_limit: '1.000000',
      month_limit: '2.000000',
      max_inflight: 3,
    })
    const found = await findKeyByHash(database.db, [await hashApiKey(TEST_PEPPER, made.key)])
    expect(found).toMatchObject({ keyId: made.id, orgId, requestsPerMinute: 7, expiresAt: null })
  })

  test('a key that has ended is not rotated', async () => {
    const { keyId } = await tenantOf('internal')
    for (const _ of ['once', 'twice'])
      expect(await json('key', 'revoke', keyId)).toMatchObject({ state: 'revoked' })
    const answer = await admin('key', 'rotate', keyId)
    expect(answer).toMatchObject({ code: 1, out: '' })
    expect(answer.err).toContain('KEY: it is revoked or has expired')
  })

  test('a move takes the usage since a date along, and the account of each team follows', async () => {
    const tenant = await tenantOf('internal')
    await buy(tenant, 2)
    const { id: other } = await json('team', 'create', '--org', tenant.orgId, '--name', 'Ads')
    const moved = await json('key', 'move', tenant.keyId, '--team', 'Ads', '--from', '2026-01-01')
    expect(moved).toMatchObject({ team_id: other, moved_lines: 2, moved: '0.030000' })
    const again = await json('key', 'move', tenant.keyId, '--team', 'Ads', '--from', '2026-01-01')
    expect(again.moved_lines).toBe(0)
    const late = await admin('key', 'move', tenant.keyId, '--team', 'Ads', '--from', '2999-01-01')
    expect(late).toMatchObject({ code: 1, err: '--from: a move cannot begin in the future' })
  })

  test('which team is meant is asked for when there are several', async () => {
    const org = await makeOrg('internal')
    expect((await admin('key', 'create', '--org', org)).err).toContain('make one with team create')
    for (const name of ['A', 'B']) await json('team', 'create', '--org', org, '--name', name)
    const answer = await admin('key', 'create', '--org', org)
    expect(answer).toMatchObject({
      code: 1,
      err: '--team is missing: the organisation has several: A, B',
    })
    expect(await json('key', 'list', '--org', org)).toEqual([])
  })

  test('nothing is made without a pepper, or with one that no gateway takes', async () => {
    const { orgId } = await tenantOf('internal')
    const short = { ...env, KEY_PEPPER: 'short' }
    const answer = await run(short, 'key', 'create', '--org', orgId)
    expect([answer.code, answer.err]).toEqual([2, 'KEY_PEPPER must have at least 32 characters'])
    const empty = await mkdtemp(join(tmpdir(), 'glyphpress-admin-'))
    const none = { DATABASE_URL: env.DATABASE_URL }
    const typed = ['key', 'create', '--org', orgId, '--state-dir', empty]
    expect(await run(none, ...typed)).toMatchObject({ code: 2, out: '' })
    await rm(empty, { recursive: true })
    expect(await json('key', 'list', '--org', orgId)).toHaveLength(1)
  })
})

describe('limits', () => {
  test('what is not named stays, none takes away, and a lowered limit lets nothing new in', async () => {
    const tenant = await tenantOf('internal')
    const typed = ['limit', 'set', '--key', tenant.keyId]
    await json(...typed, '--month', '0.03', '--max-inflight', '2')
    await json(...typed, '--total', '5', '--day', '2', '--soft', '100,50%')
    const held = await reserve(database.db, tenant, { n: 2 })
    expect(held.ok).toBe(true)
    expect(await json('limit', 'show', tenant.keyId)).toEqual({
      scope: 'key',
      id: tenant.keyId,
      day_limit: '2.000000',
      day_spent: '0.000000',
      day_held: '0.030000',
      month_limit: '0.030000',
      month_spent: '0.000000',
      month_held: '0.030000',
      total_limit: '5.000000',
      total_spent: '0.000000',
      total_held: '0.030000',
      inflight: 1,
      max_inflight: 2,
      soft: ['50%', '100%'],
    })
    const low = await admin(...typed, '--max-inflight', '0')
    expect(low).toMatchObject({ code: 1, err: expect.stringContaining('nothing was changed') })
    expect(await json(...typed, '--day', '0.01')).toMatchObject({
      day_limit: '0.010000',
      day_held: '0.030000',
    })
    const more = await reserve(database.db, tenant)
    expect(more).toMatchObject({ ok: false, scope: 'key' })
    for (const soft of ['0', '50,', '101', 'x'])
      expect((await admin(...typed, '--soft', soft)).code, soft).toBe(2)
    expect(await json(...typed, '--month', 'none')).toMatchObject({
      month_limit: null,
      total_limit: '5.000000',
      max_inflight: 2,
    })
  })

  test('one level is set at a time, and a limit is named', async () => {
    const { orgId, keyId } = await tenantOf('internal')
    const both = await admin('limit', 'set', '--org', orgId, '--key', keyId, '--month', '1')
    expect(both).toMatchObject({
      code: 2,
      err: expect.stringContaining('exactly one level must be named'),
    })
    expect((await admin('limit', 'set', '--month', '1')).code).toBe(2)
    expect((await admin('limit', 'set', '--org', orgId)).err).toContain('--day, --month, --total')
    expect((await admin('limit', 'show', 'job_1')).code).toBe(2)
  })

  test('the credit of a prepaid organisation is granted and not set', async () => {
    const org = await makeOrg('prepaid')
    const answer = await admin('limit', 'set', '--org', org, '--total', '5')
    expect(answer.code).toBe(1)
    expect(answer.err).toContain('--total: a prepaid organisation can spend the credit that it has')
  })
})

describe('money', () => {
  test('credit is granted once per source, however often the command is repeated', async () => {
    const org = await makeOrg('prepaid')
    const typed = ['credit', 'grant', '--org', org, '--usd', '25', '--kind', 'paid']
    const grant = (source: string, ...more: string[]) => json(...typed, '--source', source, ...more)
    expect(await grant('wire-1')).toMatchObject({ granted: true, credit_available: '25.000000' })
    expect(await grant('wire-1')).toMatchObject({ granted: false, credit_available: '25.000000' })
    const other = await admin(
      ...`credit grant --org ${org} --usd 26 --kind paid --source wire-1`.split(' '),
    )
    expect(other).toMatchObject({ code: 1, err: expect.stringContaining('was granted before') })
    await grant('wire-2', '--expires', '2999-01-01', '--priority', '10')
    const listed = await json('credit', 'list', '--org', org)
    expect(listed).toMatchObject([
      { source: 'wire-1', remaining: '25.000000', priority: 50, expires_at: null },
      { source: 'wire-2', priority: 10, expires_at: '2999-01-01T00:00:00.000Z' },
    ])
    const internal = await makeOrg('internal')
    const wrong = await admin(
      ...`credit grant --org ${internal} --usd 1 --kind promo --source p`.split(' '),
    )
    expect(wrong).toMatchObject({ code: 1, err: expect.stringContaining('has no promo credit') })
  })

  test('a refund gives each image back once, and two of one source are two in the ledger', async () => {
    const tenant = await tenantOf('postpaid')
    const job = await buy(tenant, 3)
    const refund = (...more: string[]) => json('refund', job, '--source', 'T-1', ...more)
    expect(await refund('--images', '0')).toMatchObject({
      refunded: '0.015000',
      state: 'succeeded',
    })
    expect((await refund('--images', '0')).refunded).toBe('0.000000')
    // The books compare the ledger with the corrections: a second refund that posts nothing would show there.
    expect((await refund('--images', '0,2')).refunded).toBe('0.015000')
    expect(await checkBooks(database.db)).toEqual([])
    expect((await refund()).refunded).toBe('0.015000')
    const unknown = await admin('refund', job, '--source', 'T-2', '--images', '0,7')
    expect(unknown).toMatchObject({ code: 1, err: '--images: 7 not charged; charged: 0,1,2' })
    const shown = await json('job', 'show', job)
    expect(shown).toMatchObject({ charged: '0.045000', attempts: 1, reservation: 'captured' })
    expect(shown.images.map(({ refunded }: { refunded: string }) => refunded)).toEqual(
      Array.from({ length: 3 }, () => '0.015000'),
    )
    expect(JSON.stringify(shown)).not.toContain(newJob(tenant).prompt)
  })

  test('what is unfinished or never charged is not refunded', async () => {
    const tenant = await tenantOf('postpaid')
    const held = await reserve(database.db, tenant)
    if (!held.ok) throw new Error(held.reason)
    const early = await admin('refund', held.jobId, '--source', 'T')
    expect(early).toMatchObject({ code: 1, err: expect.stringContaining('JOB: it is accepted') })
    const none = await admin('refund', 'job_1', '--source', 'T')
    expect(none).toMatchObject({ code: 1, err: 'JOB: there is no job "job_1"' })
  })

  test('no more is written off than is owed, once per source and for nobody else', async () => {
    const tenant = await tenantOf('postpaid')
    await buy(tenant, 4)
    const off = (org: string, amount: string) =>
      admin('write-off', '--org', org, '--usd', amount, '--source', 'board-7', '--json')
    expect(await off(tenant.orgId, '0.07')).toMatchObject({ code: 1, err: '--usd: it owes 0.06' })
    const first = JSON.parse((await off(tenant.orgId, '0.045')).out)
    expect(first).toMatchObject({ written_off: true, owes: '0.015000' })
    const repeat = JSON.parse((await off(tenant.orgId, '0.045')).out)
    expect(repeat).toMatchObject({ written_off: false, owes: '0.015000' })
    const other = await tenantOf('postpaid')
    await buy(other, 4)
    for (const [org, amount] of [
      [other.orgId, '0.045'],
      [tenant.orgId, '0.01'],
    ] as const) {
      expect(await off(org, amount)).toMatchObject({
        code: 1,
        err: `--source: 0.045 of ${tenant.orgId} was written off under it`,
      })
    }
    expect((await off(await makeOrg('internal'), '1')).code).toBe(1)
  })
})

describe('prices', () => {
  const ask = (orgId: string, at: Date, priority: 'standard' | 'batch' = 'standard') => {
    const size = { width: 1024, height: 1024 }
    const kind = { model: 'glm-image', ...size, quality: 'hd', priority }
    return quotePrice(database.db, { orgId, at, ...kind })
  }
  const after = (from: string) => new Date(Date.parse(from) + 1)

  test('a contract takes its discount off from its date on, and 0% ends it', async () => {
    const org = await makeOrg('prepaid')
    const made = await json('contract', 'set', '--org', org, '--discount', '10%')
    expect(made).toMatchObject({ book: 'default', discount: '10%' })
    expect((await ask(org, after(made.from)))?.unitMicros).toBe(13_500n)
    const end = ['contract', 'set', '--org', org, '--discount', '0%', '--from', '2030-01-01']
    await json(...end)
    expect((await ask(org, new Date('2029-12-31')))?.unitMicros).toBe(13_500n)
    expect((await ask(org, new Date('2030-01-01')))?.unitMicros).toBe(15_000n)
    expect(await json('contract', 'list', '--org', org)).toHaveLength(2)
    const late = await admin(
      'contract',
      'set',
      '--org',
      org,
      '--discount',
      '5',
      '--from',
      '2026-01-01',
    )
    expect(late).toMatchObject({ code: 1, err: '--from: a contract cannot begin in the past' })
    expect((await admin('contract', 'set', '--org', org)).code).toBe(2)
  })

  test('a book of its own sells a new kind at its price, by thousand and in tiers', async () => {
    const org = await makeOrg('postpaid')
    await json('price', 'add-sku', '--id', 'sku_batch', '--priority', 'batch')
    await json('price', 'add-book', '--id', 'acme', '--name', 'Acme')
    expect((await admin('price', 'add-sku', '--id', 'other', '--priority', 'batch')).code).toBe(1)
    expect((await admin('price', 'add-book', '--id', 'acme', '--name', 'A')).code).toBe(1)
    const publish = (...more: string[]) => json('price', 'publish', '--book', 'acme', ...more)
    await publish('--sku', 'sku_batch', '--usd', '7.25', '--per', '1000')
    const tiers = await publish('--sku', 'sku_glm_image', '--tiers', '1000:0.015,*:0.012')
    expect(tiers).toMatchObject({ tiers: '1000:0.015,*:0.012', price: '0.015000' })
    const made = await json('contract', 'set', '--org', org, '--book', 'acme')
    // Each began after the one before.
    const at = after(made.from)
    expect((await ask(org, at, 'batch'))?.unitMicros).toBe(7_250n)
    expect((await ask(org, at))?.priceVersionId).toBe(tiers.id)
    expect(await json('price', 'list', '--book', 'acme')).toHaveLength(2)
  })

  test('what cannot be a price is refused and named, and changes nothing', async () => {
    const publish = (...more: string[]) => admin('price', 'publish', ...more)
    const sku = ['--sku', 'sku_glm_image']
    const before = await json('price', 'list', '--history')
    expect(await publish(...sku)).toMatchObject({ code: 2 })
    expect(await publish(...sku, '--usd', '1', '--tiers', '*:1')).toMatchObject({ code: 2 })
    for (const tiers of ['1000:0.015', '*:0.01,5:0.02', '10:1,', '*:-1', '1.5:1,*:1'])
      expect((await publish(...sku, '--tiers', tiers)).code, tiers).toBe(2)
    const falling = await publish(...sku, '--tiers', '10:2,5:1,*:0.5')
    expect(falling).toMatchObject({ code: 1, err: expect.stringContaining('rising ends') })
    expect(await publish(...sku, '--usd', '1', '--from', '2026-01-01')).toMatchObject({
      code: 1,
      err: '--from: a price cannot begin in the past',
    })
    const noSku = await publish('--sku', 'nope', '--usd', '1')
    expect(noSku).toMatchObject({ code: 1, err: expect.stringMatching(/--sku: .*sku_glm_image/) })
    const noBook = await publish(...sku, '--usd', '1', '--book', 'nope')
    expect(noBook).toMatchObject({ code: 1, err: expect.stringMatching(/--book: .*default/) })
    expect(await json('price', 'list', '--history')).toEqual(before)
  })
})

test('a database that does not answer, and one without tables, are called that', async () => {
  const nobody = await run({ DATABASE_URL: 'postgres://a:b@127.0.0.1:1/c' }, 'org', 'list')
  expect(nobody.code).toBe(1)
  expect(nobody.err).toContain('DATABASE_URL does not answer (ECONNREFUSED)')
  const bare = new URL(database.url)
  bare.pathname = '/template1'
  const empty = await run({ DATABASE_URL: bare.href }, 'org', 'list')
  expect([empty.code, empty.err]).toEqual([1, expect.stringContaining('npm run db:migrate')])
  const wrong = await run({ DATABASE_URL: 'mysql://a' }, 'org', 'list')
  expect([wrong.code, wrong.err]).toEqual([2, 'DATABASE_URL must begin with postgres://'])
})

test('a bare tenant made by functions is shown like one made by commands', async () => {
  const tenant = await createBareTenant(database.db, { settlementMode: 'internal' })
  const shown = await json('org', 'show', tenant.orgId)
  expect(shown.limits.map(({ scope }: { scope: string }) => scope)).toEqual(['org', 'team', 'key'])
  expect(shown.keys).toMatchObject([{ id: tenant.keyId, state: 'active' }])
})
