import { once } from 'node:events'
import { readFile, readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import {
  descendantsOf,
  findPart,
  interrupt,
  isAlive,
  openStack,
  survivorsOf,
  untilSaid,
} from '../support/stack.ts'
import type { Stack, Started } from '../support/stack.ts'
import { until } from '../support/worker.ts'

/** What supervisors wait before they kill. */
const STOP_MS = 10_000

let stack: Stack
beforeAll(async () => {
  stack = await openStack()
})
afterEach(() => stack.stopAll())
afterAll(() => stack.close())

const exists = (path: string) =>
  stat(path).then(
    () => true,
    () => false,
  )

async function databasePid(): Promise<number> {
  return Number.parseInt(await readFile(join(stack.stateDir, 'postgres/postmaster.pid'), 'utf8'))
}

/** The launcher's processes, and it stops them. */
async function freeze({ child }: Started): Promise<number[]> {
  const pids = [
    await findPart(child, 'edge/node.ts'),
    await findPart(child, 'gpu-worker/main.ts'),
    await databasePid(),
  ]
  for (const pid of pids) process.kill(pid, 'SIGSTOP')
  return descendantsOf(child.pid ?? 0)
}

describe('a stop', { timeout: 180_000 }, () => {
  test.each([
    [
      'its cluster is made',
      async (dir: string) =>
        (await readdir(dir)).some((name) => name.startsWith('postgres.making')),
    ],
    ['its database server comes up', (dir: string) => exists(join(dir, 'postgres/postmaster.pid'))],
    ['its parts come up', (dir: string) => exists(join(dir, 'logs/worker.log'))],
  ])('while %s leaves no process and a folder to start again on', async (_, isReached) => {
    const dir = join(stack.folder, 'early')
    const { child, text } = stack.begin(dir)
    await until(() => isReached(dir).catch(() => false), text)
    const others = await descendantsOf(child.pid ?? 0)
    const stoppingMs = performance.now()
    expect(await interrupt(child)).toBe(0)
    expect(performance.now() - stoppingMs).toBeLessThan(STOP_MS)
    expect(await survivorsOf(others)).toEqual([])
    expect(await exists(join(dir, 'postgres/postmaster.pid'))).toBe(false)
    // What was torn away is no news: the stop has the last word, wherever the start had got to.
    const said = text()
      .split('\n')
      .filter((line) => line !== '')
    expect(said.at(-1)).toMatch(/^Stopping/)
  })

  test('takes less than ten seconds, whatever hangs, and a second Ctrl-C ends it at once', async () => {
    const slow = await stack.start()
    const slowOnes = await freeze(slow)
    const stoppingMs = performance.now()
    expect(await interrupt(slow.child)).toBe(0)
    expect(performance.now() - stoppingMs).toBeLessThan(STOP_MS)
    expect(slow.text()).toContain('s, killed: database')
    expect(await survivorsOf(slowOnes)).toEqual([])

    const quick = await stack.start()
    const quickOnes = await freeze(quick)
    const hurryingMs = performance.now()
    const ended = once(quick.child, 'exit')
    // One press may arrive twice, from the terminal and from npm.
    process.kill(-(quick.child.pid ?? 0), 'SIGINT')
    process.kill(-(quick.child.pid ?? 0), 'SIGINT')
    await untilSaid(quick, 'Stopping')
    const press = setInterval(() => quick.child.kill('SIGINT'), 100)
    expect((await ended)[0]).toBe(0)
    clearInterval(press)
    const tookMs = performance.now() - hurryingMs
    expect(tookMs).toBeGreaterThan(900)
    expect(tookMs).toBeLessThan(5_000)
    expect(quick.text()).toContain('At once, killed: database, gateway, worker')
    expect(await survivorsOf(quickOnes)).toEqual([])
  })

  test('comes with the end of the terminal too, where nobody reads any more', async () => {
    const { child } = await stack.start()
    const others = await descendantsOf(child.pid ?? 0)
    child.stdout?.destroy()
    child.stderr?.destroy()
    const ended = once(child, 'exit')
    process.kill(-(child.pid ?? 0), 'SIGHUP')
    expect((await ended)[0]).toBe(0)
    expect(others.filter(isAlive)).toEqual([])
    expect(await exists(join(stack.stateDir, 'postgres/postmaster.pid'))).toBe(false)
  })
})
