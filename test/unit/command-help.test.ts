import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const { scripts } = JSON.parse(readFileSync(`${ROOT}package.json`, 'utf8')) as {
  scripts: Record<string, string>
}
/** Those that a person gives options; the gateway and the worker take theirs from the environment, benches from their file. */
const COMMANDS = Object.entries(scripts).filter(
  ([name, line]) => line.startsWith('node ') && !/^(bench:|gateway$|worker$)/.test(name),
)

test.each(COMMANDS)('npm run %s -- --help explains it, without a database', async (_name, line) => {
  const [, ...args] = line.split(' ')
  const { stdout } = await promisify(execFile)(process.execPath, [...args, '--help'], {
    cwd: ROOT,
    env: { PATH: process.env.PATH ?? '', HOME: process.env.HOME ?? '' },
  })
  expect(stdout).toMatch(/npm (run|start)/)
})
