import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { childEnv } from '../../infra/local/env.ts'
import { startPart } from '../../infra/local/processes.ts'
import type { Part } from '../../infra/local/processes.ts'

const READY = JSON.stringify({ level: 'info', event: 'ready' })

let folder: string
let said: string[]
let part: Part | null
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'glyphpress-parts-'))
  said = []
  part = null
})
afterEach(async () => {
  await part?.stop(1_000)
  await rm(folder, { recursive: true, force: true })
})

function start(env: { SAYS: string[]; ENDS?: string }): Part {
  part = startPart({
    name: 'part',
    script: join(import.meta.dirname, '../support/part.ts'),
    readyEvent: 'ready',
    logDir: folder,
    env: childEnv({ SAYS: JSON.stringify(env.SAYS), ENDS: env.ENDS }),
    say: (text) => void said.push(text),
    onSpawn: () => {},
  })
  return part
}

test('a part that cannot start is not tried again, and its last words are shown', async () => {
  const words = Array.from({ length: 30 }, (_, index) => `line ${index}`)
  await expect(start({ SAYS: words, ENDS: '1' }).ready).rejects.toThrow(
    /^the part ended \(code 1\):\nline 20\n(.*\n)+line 29$/,
  )
  expect(said).toEqual([])
  expect(await readFile(join(folder, 'part.log'), 'utf8')).toBe(`${words.join('\n')}\n`)
})

test('the first warning of each kind is shown, since it may be about a setting', async () => {
  const denied = { level: 'warn', event: 'queue_unreachable', error: 'AccessDenied' }
  const failed = { level: 'error', event: 'attempt_failed', message: 'NoSuchBucket' }
  const lines = [denied, denied, failed, denied].map((entry) => JSON.stringify(entry))
  await start({ SAYS: [...lines, '"level":"warn" and no JSON', READY] }).ready
  expect(said).toEqual([
    'part: queue_unreachable: AccessDenied (more like it in part.log)',
    'part: attempt_failed: NoSuchBucket (more like it in part.log)',
  ])
})

test('a part that ends after it was ready is started again', async () => {
  await start({ SAYS: [READY], ENDS: '1' }).ready
  await expect.poll(() => said, { timeout: 20_000 }).toHaveLength(2)
  expect(said[0]).toBe('the part ended (code 1); it is started again in 0.5 s')
})
