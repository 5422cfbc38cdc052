import { mkdtemp, readFile, readdir, rm, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { openLogFile } from '../../../infra/local/log-file.ts'

let folder: string
let troubles: string[]
const onTrouble = (text: string) => void troubles.push(text)
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'glyphpress-logs-'))
  troubles = []
})
afterEach(() => rm(folder, { recursive: true, force: true }))

test('a log takes twice its bound at most, keeps the newest lines and goes on over a restart', async () => {
  const path = join(folder, 'part.log')
  const numbers = Array.from({ length: 50 }, (_, index) => `line ${100 + index}`)
  for (const half of [numbers.slice(0, 25), numbers.slice(25)]) {
    const log = openLogFile(path, { onTrouble, maxBytes: 100 })
    for (const line of half) log.write(line)
    log.close()
  }
  expect((await readdir(folder)).toSorted()).toEqual(['part.log', 'part.log.1'])
  const older = await readFile(`${path}.1`, 'utf8')
  const newer = await readFile(path, 'utf8')
  expect(Math.max(older.length, newer.length)).toBeLessThanOrEqual(100)
  const kept = (older + newer).trimEnd().split('\n')
  expect(kept).toEqual(numbers.slice(-kept.length))
  expect(kept.length).toBeGreaterThan(11)
})

// The device that is always full is Linux's.
test.skipIf(process.platform !== 'linux')('a full disk costs lines and is said once', async () => {
  const path = join(folder, 'part.log')
  await symlink('/dev/full', path)
  const log = openLogFile(path, { onTrouble })
  for (let count = 0; count < 5; count++) log.write('lost')
  log.close()
  expect(troubles).toEqual([expect.stringMatching(/part\.log cannot be written: ENOSPC/)])
})

test('a log that can be written again takes lines again, and the next trouble is said', async () => {
  const path = join(folder, 'later', 'part.log')
  const log = openLogFile(path, { onTrouble })
  log.write('lost')
  await symlink(folder, join(folder, 'later'))
  log.write('kept')
  log.close()
  await rm(join(folder, 'later'))
  log.write('lost')
  expect(await readFile(join(folder, 'part.log'), 'utf8')).toBe('kept\n')
  expect(troubles).toHaveLength(2)
})
