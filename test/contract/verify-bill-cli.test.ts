import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { StatementDocument } from '../../billing/statement/document.ts'
import { createTestApp } from '../support/app.ts'
import type { TestApp } from '../support/app.ts'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { buyAt } from '../support/statement-world.ts'
import { createTenant } from '../support/tenant.ts'
import type { Tenant } from '../support/tenant.ts'

const FLAGS = ['--disable-warning=ExperimentalWarning', '--experimental-strip-types']
let database: TestDatabase
let app: TestApp
let tenant: Tenant
let root: string
let statement: StatementDocument
/** Pages of the API, as they were sent. */
let pages: string[]

const get = async (path: string) => {
  const response = await app.call('GET', path, { apiKey: tenant.apiKey })
  expect(response.status).toBe(200)
  return response.text()
}

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'verify-bill-'))
  database = await createTestDatabase()
  tenant = await createTenant(database.db)
  const objects = {} as Parameters<typeof createTestApp>[1]['objects']
  app = createTestApp(database.db, { objects })
  for (const at of ['2026-09-30T23:59:59Z', '2026-10-01T00:00:00Z', '2026-10-31T23:59:59Z'])
    await buyAt(database.db, tenant, { n: 3, delivered: 2, at: new Date(at) })
  pages = []
  for (let after: string | null = ''; after !== null;) {
    const span = 'from=2026-09-01T00:00:00Z&to=2026-11-30T00:00:00Z&limit=4'
    const page = await get(`/v1/receipts?${span}${after === '' ? '' : `&after=${after}`}`)
    pages.push(page)
    const { has_more: hasMore, next_after: next } = JSON.parse(page)
    after = hasMore ? next : null
  }
  statement = JSON.parse(await get('/v1/statements/2026-10'))
  await writeFile(join(root, 'jwks.json'), await get('/.well-known/jwks.json'))
})
afterAll(async () => {
  await database.close()
  await rm(root, { recursive: true, force: true })
})

let runs = 0
async function verify(texts: string[], bill: unknown): Promise<{ code: number; out: string }> {
  const receipts = join(root, `receipts-${(runs += 1)}`)
  await mkdir(receipts)
  await Promise.all(texts.map((text, index) => writeFile(join(receipts, `${index}.json`), text)))
  const file = join(root, `statement-${runs}.json`)
  await writeFile(file, JSON.stringify(bill))
  const files = ['--receipts', receipts, '--statement', file, '--jwks', join(root, 'jwks.json')]
  return new Promise((resolve) => {
    execFile(
      process.execPath,
      [...FLAGS, 'billing/verify-bill-cli.ts', ...files],
      (error, out, err) =>
        resolve({ code: error ? Number(error.code ?? -1) : 0, out: `${out}${err}` }),
    )
  })
}

test('a bill from the API is right by its receipts, offline', async () => {
  expect(pages).toHaveLength(2)
  const { code, out } = await verify(pages, statement)
  expect(out).toContain('4 receipts count for the statement, 2 are of something else.')
  expect(out).toContain('The bill is right.')
  expect(code).toBe(0)
})

test('a changed statement is named by its difference', async () => {
  const usage = { ...statement.usage, net: '0.061000' }
  const { code, out } = await verify(pages, { ...statement, usage })
  expect(out).toContain('the month: the statement says net 0.061000, the receipts say 0.060000')
  expect(code).toBe(1)
})

test('a forged receipt is named by its place, and counts for nothing', async () => {
  const [jws = ''] = (JSON.parse(pages.join('\n').split('\n').at(-1) ?? '{}') as { data: string[] })
    .data
  const [head, payload = '', signature] = jws.split('.')
  const text = Buffer.from(payload, 'base64url').toString().replaceAll('0.015000', '0.010000')
  const forged = [head, Buffer.from(text).toString('base64url'), signature].join('.')
  const { code, out } = await verify(
    pages.map((page) => page.replace(jws, forged)),
    statement,
  )
  expect(out).toMatch(/1\.json:\d+: not signed by the keys of --jwks/)
  expect(out).toContain('the month: the statement says images 4, the receipts say 3')
  expect(code).toBe(1)
})

test('a missing receipt is a difference', async () => {
  const { code, out } = await verify(pages.slice(0, 1), statement)
  expect(out).toContain('the month: the statement says images 4, the receipts say 2')
  expect(code).toBe(1)
})

test('what cannot be read ends with 2 and says which option', async () => {
  const { code, out } = await verify(pages, { nothing: true })
  expect(out).toContain('--statement: is no statement in JSON')
  expect(code).toBe(2)
})
