import { execFile } from 'node:child_process'
import { mkdtemp, readFile, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { gzipSync } from 'node:zlib'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

const ROOT = resolve(import.meta.dirname, '../..')
const run = promisify(execFile)

/** As Cloudflare measures a Worker: the upload after gzip. Its limit is 3 MB on the free plan and 10 MB on the paid. */
const MAX_GZIP_BYTES = 360 * 1024
/** What an isolate has to parse at its start. */
const MAX_BYTES = 1_300_000

let folder: string
let said: string
let code: string

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'glyphpress-bundle-'))
  const { stdout, stderr } = await run(
    join(ROOT, 'node_modules/.bin/node'),
    [
      join(ROOT, 'node_modules/wrangler/bin/wrangler.js'),
      'deploy',
      '--dry-run',
      '--env=production',
      `--outdir=${folder}`,
    ],
    {
      cwd: ROOT,
      env: {
        PATH: process.env.PATH ?? '',
        HOME: folder,
        CI: '1',
        CLOUDFLARE_CF_FETCH_ENABLED: 'false',
        CLOUDFLARE_TELEMETRY_DISABLED: '1',
        WRANGLER_SEND_METRICS: 'false',
        WRANGLER_SEND_ERROR_REPORTS: 'false',
        WRANGLER_HIDE_BANNER: 'true',
      },
    },
  )
  said = stdout + stderr
  code = await readFile(join(folder, 'index.js'), 'utf8')
})
afterAll(() => rm(folder, { recursive: true, force: true }))

describe('the Worker as it is deployed', () => {
  test('is within its budget, gzipped as Cloudflare counts and parsed as an isolate does', async () => {
    const scripts = (await readdir(folder)).filter((name) => name.endsWith('.js'))
    expect(scripts).toEqual(['index.js'])
    expect(gzipSync(code).length).toBeLessThan(MAX_GZIP_BYTES)
    expect(Buffer.byteLength(code)).toBeLessThan(MAX_BYTES)
  })

  test('carries no language of zod beside English', () => {
    expect(code).toContain('Invalid input')
    expect(code).not.toContain('Ungültige Eingabe')
    expect(code).not.toContain('無効な入力')
  })

  test('is bundled without a warning, and bound to the pool and the shield', () => {
    expect(said).not.toMatch(/warn/i)
    expect(said).toMatch(/env\.HYPERDRIVE \([0-9a-f]{32}\)/)
    expect(said).toContain('env.SHIELD')
  })
})

test('the settings name every secret that the Worker cannot start without', async () => {
  const text = await readFile(join(ROOT, 'wrangler.toml'), 'utf8')
  const required = /\[env\.production\.secrets\]\nrequired = \[(.*)\]/.exec(text)?.[1]
  expect(required?.split(', ').map((name) => JSON.parse(name) as string)).toEqual([
    'KEY_PEPPER',
    'AWS_ACCESS_KEY_ID',
    'AWS_SECRET_ACCESS_KEY',
  ])
  // No secret in the file that is committed.
  expect(text).not.toMatch(/^(KEY_PEPPER|AWS_SECRET_ACCESS_KEY|DATABASE_URL|STRIPE_\w+) *=/m)
})
