import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { closeDatabase, openDatabase } from '../../db/client.ts'
import { findKeyByHash } from '../../db/keys.ts'
import { migrateDatabase } from '../../db/migrate-cli.ts'
import { hashApiKey } from '../../edge/api-key.ts'
import { startPostgres } from '../../infra/local/postgres.ts'
import { openState } from '../../infra/local/state.ts'
import { admin, adminJson, spawnAdmin } from '../support/admin.ts'
import { checkBooks } from '../support/books.ts'
import { startTestGateway } from '../support/gateway.ts'
import type { TestGateway } from '../support/gateway.ts'
import { TEST_PEPPER } from '../support/pepper.ts'

let gateway: TestGateway
let env: { DATABASE_URL: string; KEY_PEPPER: string }
beforeAll(async () => {
  gateway = await startTestGateway()
  env = { DATABASE_URL: gateway.database.url, KEY_PEPPER: TEST_PEPPER }
})
afterAll(async () => {
  expect(await checkBooks(gateway.database.db)).toEqual([])
  await gateway.close()
})

test('what an operator sets up by commands works at once at the gateway that runs', async () => {
  const json = (...typed: string[]) => adminJson(env, ...typed)
  await json('org', 'create', '--name', 'Studio', '--mode', 'internal')
  await json('team', 'create', '--org', 'Studio', '--name', 'Design', '--month', '0.045')
  const made = await json('key', 'create', '--org', 'Studio', '--scopes', 'generate,read')
  const { key } = made
  const draw = (n: number) =>
    gateway.call('POST', '/v1/jobs', { key, body: { prompt: "A sign 'OPEN'", n } })

  const first = await draw(2)
  expect(first.status).toBe(201)
  await gateway.finisher.finish(first.body.id)
  const over = await draw(2)
  expect([over.status, over.body.error.type]).toEqual([403, 'budget_exceeded'])
  expect((await draw(1)).status).toBe(201)
  expect((await draw(1)).status).toBe(403)

  // More of it, at once; then the scope that it lacks, and its end.
  await json('limit', 'set', '--team', 'Design', '--month', '1')
  expect((await draw(1)).status).toBe(201)
  const webhooks = await gateway.call('GET', '/v1/webhook-endpoints', { key })
  expect(webhooks.status).toBe(403)
  const shown = await json('job', 'show', first.body.id)
  expect(shown).toMatchObject({ state: 'succeeded', charged: '0.030000', key: made.id })
  await json('key', 'revoke', made.id)
  expect((await draw(1)).status).toBe(401)
})

test('a rotated key and the old one both draw till the old one ends', async () => {
  await adminJson(env, 'org', 'create', '--name', 'Rotating', '--mode', 'internal')
  await adminJson(env, 'team', 'create', '--org', 'Rotating', '--name', 'Only')
  const old = await adminJson(env, 'key', 'create', '--org', 'Rotating')
  const made = await adminJson(env, 'key', 'rotate', old.id)
  for (const { key } of [old, made]) {
    const answer = await gateway.call('POST', '/v1/jobs', { key, body: { prompt: 'A' } })
    expect(answer.status).toBe(201)
  }
  await gateway.database.db.sql`update api_key set expires_at = now() where id = ${old.id}`
  const late = await gateway.call('POST', '/v1/jobs', { key: old.key, body: { prompt: 'A' } })
  expect(late.status).toBe(401)
})

test('a key is on the output once and nowhere in the database; exit codes tell who refused', async () => {
  const { db } = gateway.database
  await adminJson(env, 'org', 'create', '--name', 'Secretive', '--mode', 'internal')
  await adminJson(env, 'team', 'create', '--org', 'Secretive', '--name', 'Only')
  const answer = await spawnAdmin(env, 'key', 'create', '--org', 'Secretive')
  expect(answer.code).toBe(0)
  const found = answer.out.match(/gp_live_[0-9A-Za-z]{36}/g) ?? []
  expect(found).toHaveLength(1)
  expect(answer.err).not.toContain(found[0])
  expect(answer.err).toContain('shown this once')
  const rows = await db.sql<{ row: string }[]>`select to_jsonb(k)::text as row from api_key k`
  expect(rows.filter(({ row }) => row.includes(found[0] ?? ''))).toEqual([])
  const hash = await hashApiKey(TEST_PEPPER, found[0] ?? '')
  expect(await findKeyByHash(db, [hash])).not.toBeNull()
  for (const typed of [
    ['key', 'list', '--org', 'Secretive', '--all'],
    ['org', 'show', 'Secretive'],
  ])
    expect((await admin(env, ...typed)).out).not.toContain(found[0])

  const refused = await spawnAdmin(env, 'key', 'revoke', 'key_1')
  expect(refused).toEqual({ code: 1, out: '', err: 'KEY: there is no key "key_1"\n' })
  const wrong = await spawnAdmin(env, 'key', 'revoke')
  expect(wrong).toMatchObject({ code: 2, out: '', err: expect.stringContaining('KEY is missing') })
})

test('without variables commands work on what npm start runs here, under its pepper', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'glyphpress-admin-'))
  await chmod(dir, 0o755)
  const here = (...typed: string[]) => adminJson({}, ...typed, '--state-dir', join(dir, 'state'))
  const none = await admin({}, 'org', 'list', '--state-dir', join(dir, 'state'))
  expect(none.code).toBe(2)
  expect(none.err).toContain('npm start does not run on')

  const state = await openState(join(dir, 'state'))
  const options = { password: state.secrets.databasePassword, isThrowaway: true }
  const server = await startPostgres({ ...options, dataDir: state.databaseDir })
  try {
    await migrateDatabase(server.url)
    await here('org', 'create', '--name', 'Local', '--mode', 'internal')
    await here('team', 'create', '--org', 'Local', '--name', 'Only')
    const { key } = await here('key', 'create', '--org', 'Local')
    const db = openDatabase(server.url, { maxConnections: 1 })
    const hash = await hashApiKey(state.secrets.pepper, key)
    expect(await findKeyByHash(db, [hash])).not.toBeNull()
    await closeDatabase(db)
  } finally {
    await server.stop()
    state.release()
  }
  const stopped = await admin({}, 'org', 'list', '--state-dir', join(dir, 'state'))
  expect([stopped.code, stopped.out]).toEqual([2, ''])
  await rm(dir, { recursive: true, force: true })
})
