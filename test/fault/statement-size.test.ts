import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { checkFocus, parseCsv } from '../support/focus-check.ts'
import { createBareTenant } from '../support/jobs.ts'
import type { BareTenant } from '../support/jobs.ts'
import { multiplyLines } from '../support/statement-lines.ts'
import { buyAt } from '../support/statement-world.ts'

let database: TestDatabase
let tenant: BareTenant

beforeAll(async () => {
  database = await createTestDatabase()
  const { db } = database
  tenant = await createBareTenant(db)
  await buyAt(db, tenant, { n: 1, delivered: 1, at: new Date('2026-07-01T00:00:00Z') })
})
afterAll(() => database.close())

/** The command as an operator runs it, with little memory. */
async function run(
  args: string[],
  heapMb = 256,
): Promise<{ code: number; out: string; err: string }> {
  const cli = new URL('../../billing/statement-cli.ts', import.meta.url).pathname
  const flags = ['--disable-warning=ExperimentalWarning', '--experimental-strip-types']
  const child = spawn(
    process.execPath,
    [...flags, `--max-old-space-size=${heapMb}`, cli, '--org', tenant.orgId, ...args],
    { env: { ...process.env, DATABASE_URL: database.url }, stdio: ['ignore', 'pipe', 'pipe'] },
  )
  const read = async (stream: NodeJS.ReadableStream) => {
    let text = ''
    for await (const chunk of stream) text += String(chunk)
    return text
  }
  const [out, err, [code]] = await Promise.all([
    read(child.stdout),
    read(child.stderr),
    once(child, 'exit') as Promise<[number]>,
  ])
  return { code, out, err }
}

test('the command closes a month and writes each form of it; a mistake is said in a sentence', async () => {
  const month = ['--month', '2026-07']
  const closed = await run([...month, '--close'])
  expect(closed).toMatchObject({ code: 0 })
  expect(closed.err).toMatch(/^Closed .* sha256 [0-9a-f]{64}\n$/)
  expect(JSON.parse(closed.out)).toMatchObject({ month: '2026-07', total: { images: 1 } })
  const focus = await run([
    ...month,
    '--format',
    'focus',
    '--focus-version',
    '1.2',
    '--provider',
    'Acme',
  ])
  expect(checkFocus(focus.out, '1.2')).toEqual([])
  expect(parseCsv(focus.out).rows[0]).toMatchObject({ ProviderName: 'Acme' })
  expect(await run(['--month', 'July'])).toMatchObject({ code: 1, out: '' })
  const future = await run(['--month', '2099-01', '--close'])
  expect(future).toMatchObject({ code: 1, err: expect.stringContaining('not over') })
}, 60_000)

test('FOCUS of 80,000 lines is written with a heap of 32 MB, each line once', async () => {
  const count = 80_000
  await multiplyLines(database.db, { orgId: tenant.orgId, from: '2026-08-01T00:00:00Z', count })
  const out = join(tmpdir(), `focus-${process.pid}.csv`)
  const result = await run(['--month', '2026-08', '--format', 'focus', '--out', out], 32)
  expect(result).toEqual({ code: 0, out: '', err: '' })
  const text = await readFile(out, 'utf8')
  await rm(out)
  // Far more text than the heap had room for.
  expect(text.length).toBeGreaterThan(40 * 1024 * 1024)
  const lines = text.trimEnd().split('\r\n')
  expect(lines).toHaveLength(count + 1)
  expect(new Set(lines.map((line) => line.slice(line.lastIndexOf(',') + 1))).size).toBe(count + 1)
}, 120_000)
