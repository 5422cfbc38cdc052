import { execFile } from 'node:child_process'
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { cacheDir, startForeign } from './foreign-server.ts'
import type { ForeignKind } from './foreign-server.ts'

/** The version is that of the requirements. */
const HOME = join(cacheDir(), 'moto-5.2.5')

/** moto: the services of AWS in memory, in Python, after AWS's own models of them. */
export const MOTO: ForeignKind = {
  name: 'moto',
  marker: join(HOME, 'fetched'),
  urlVariable: 'TEST_MOTO_URL',
  start: () =>
    startForeign({
      command: join(HOME, 'bin', 'moto_server'),
      args: ['-H', '127.0.0.1', '-p', '0'],
      listening: /Running on http:\/\/127\.0\.0\.1:(\d+)/,
    }),
}

/** Puts it into an environment of its own in the cache. @throws when Python or its package index is not there */
export async function fetchMoto(): Promise<void> {
  const run = promisify(execFile)
  await rm(HOME, { recursive: true, force: true })
  await mkdir(HOME, { recursive: true })
  await run('python3', ['-m', 'venv', HOME])
  const requirements = join(import.meta.dirname, 'moto', 'requirements.txt')
  await run(join(HOME, 'bin', 'pip'), ['install', '-q', '-r', requirements])
  await writeFile(MOTO.marker, '')
}
