import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { cp, readFile, readdir, rm, stat } from 'node:fs/promises'
import { availableParallelism, loadavg } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { findFreePort } from '../../infra/local/postgres.ts'
import { checkBooks } from '../support/books.ts'
import {
  descendantsOf,
  fetchPicture,
  findPart,
  interrupt,
  isAlive,
  keyIn,
  openStack,
  survivorsOf,
} from '../support/stack.ts'
import type { Stack } from '../support/stack.ts'
import { MODEL_DIR, until } from '../support/worker.ts'

/** From the command to the picture on the caller's disk, on two cores: what the product promises a newcomer. */
const FIRST_PICTURE_MS = 30_000
/**
 * It takes some eight seconds of processor time, so it is kept beside other test files too. On a machine that has
 * more than four processes waiting for each core, which no test run of ours makes, it is given time in proportion.
 */
const stretch = () => Math.max(1, (loadavg()[0] ?? 0) / (4 * availableParallelism()))
const run = promisify(execFile)

let stack: Stack
beforeAll(async () => {
  stack = await openStack()
})
afterEach(() => stack.stopAll())
afterAll(() => stack.close())

async function waitForJob(id: string, key: string): Promise<{ state: string; attempt: number }> {
  const endMs = Date.now() + 90_000
  for (;;) {
    const job = (await (await stack.call(`/v1/jobs/${id}`, key)).json()) as {
      state: string
      attempt: number
    }
    if (!['accepted', 'queued', 'running'].includes(job.state)) return job
    if (Date.now() > endMs) throw new Error(`job ${id} is still ${job.state}`)
    await new Promise((wake) => setTimeout(wake, 100))
  }
}

describe('npm start', { timeout: 180_000 }, () => {
  let key = ''

  test('has drawn a picture within 30 seconds of its first start, with no configuration', async () => {
    const startedMs = performance.now()
    const { child, text } = await stack.start([], { MODEL_DIR: '' })
    key = keyIn(text())
    expect(text()).toContain('Small model')

    // The line that it prints is what a person pastes.
    const line = text()
      .split('\n')
      .find((each) => each.startsWith('curl '))
    const { stdout } = await run('bash', ['-c', line ?? 'false'])
    const { data } = JSON.parse(stdout) as { data: { url: string; sha256: string }[] }
    expect((await fetchPicture(data[0])).type).toBe('image/png')
    expect(performance.now() - startedMs).toBeLessThan(FIRST_PICTURE_MS * stretch())

    expect((await stat(join(stack.stateDir, 'secrets.json'))).mode & 0o777).toBe(0o600)
    expect(await readdir(join(stack.stateDir, 'logs'))).toEqual(['gateway.log', 'worker.log'])
    expect(await stack.withDatabase(checkBooks)).toEqual([])

    // Ctrl-C leaves no process.
    const others = await descendantsOf(child.pid ?? 0)
    expect(others.length).toBeGreaterThanOrEqual(4)
    const stoppingMs = performance.now()
    expect(await interrupt(child)).toBe(0)
    expect(performance.now() - stoppingMs).toBeLessThan(10_000)
    expect(others.filter(isAlive)).toEqual([])
  })

  test('keeps jobs, pictures and keys over a restart and shows no key again', async () => {
    const { text } = await stack.start()
    expect(text()).not.toContain('gp_live_')
    const { data } = (await (await stack.call('/v1/jobs', key)).json()) as {
      data: { state: string; outputs: { url: string; sha256: string }[] }[]
    }
    expect(data.map(({ state }) => state)).toEqual(['succeeded'])
    await fetchPicture(data[0]?.outputs[0])
  })

  test('goes on with a job that the stop interrupted, and with one that a kill interrupted', async () => {
    const first = await stack.start()
    const created = await stack.call('/v1/jobs', key, { prompt: 'a', n: 2, size: '512x512' })
    const { id } = (await created.json()) as { id: string }
    await interrupt(first.child)

    const second = await stack.start()
    const other = await stack.call('/v1/jobs', key, { prompt: 'b', n: 2, size: '512x512' })
    const { id: otherId } = (await other.json()) as { id: string }
    expect((await waitForJob(id, key)).state).toBe('succeeded')
    const [interrupted] = await stack.withDatabase(
      (db) => db.sql<{ failed: number }[]>`
        select failed_attempts as failed from job where id = ${id}`,
    )
    expect(interrupted, 'a stop is not a failure of the job').toEqual({ failed: 0 })
    for (const pid of [...(await descendantsOf(second.child.pid ?? 0)), second.child.pid ?? 0]) {
      if (isAlive(pid)) process.kill(pid, 'SIGKILL')
    }
    await once(second.child, 'exit').catch(() => {})

    await stack.start()
    expect((await waitForJob(otherId, key)).state).toBe('succeeded')
    expect(await stack.withDatabase(checkBooks)).toEqual([])
  })

  test('that is killed takes its parts along and can be started again on the same port', async () => {
    const { child } = await stack.start()
    const parts = [
      await findPart(child, 'edge/node.ts'),
      await findPart(child, 'gpu-worker/main.ts'),
    ]
    const engines = (await Promise.all(parts.map(descendantsOf))).flat()
    expect(engines.length).toBeGreaterThan(0)
    child.kill('SIGKILL')
    await once(child, 'exit')
    expect(await survivorsOf([...parts, ...engines])).toEqual([])
    await stack.start()
    expect((await stack.call('/v1/jobs', key)).status).toBe(200)
  })

  test('stops, and says why, when its database server dies', async () => {
    const { child, text } = await stack.start()
    const others = await descendantsOf(child.pid ?? 0)
    const [serverPid] = (
      await readFile(join(stack.stateDir, 'postgres/postmaster.pid'), 'utf8')
    ).split('\n')
    const ended = once(child, 'exit')
    process.kill(Number(serverPid), 'SIGKILL')
    expect((await ended)[0]).toBe(1)
    expect(text()).toContain('The database server has ended')
    expect(await survivorsOf(others)).toEqual([])
  })

  test('shows another key when asked, and a start that fails does not swallow the first one', async () => {
    const fresh = join(stack.folder, 'fresh')
    const own = ['--port', String(stack.port), '--state-dir', fresh]
    const absent = await stack.finish([...own, '--model', stack.folder])
    expect(absent).toMatchObject({ code: 1, text: expect.stringContaining('--model: ') })
    // A folder that is no checkpoint is seen before anything is made.
    await expect(stat(fresh)).rejects.toThrow()

    const damaged = join(stack.folder, 'damaged')
    await cp(MODEL_DIR, damaged, { recursive: true })
    await rm(join(damaged, 'processor/chat_template.jinja'))
    const failed = await stack.finish([...own, '--model', damaged])
    expect(failed.code).toBe(1)
    expect(failed.text).toContain('chat_template.jinja')
    expect(failed.text).not.toContain('started again')
    expect(failed.text).not.toContain('gp_live_')
    const { child, text } = await stack.start(['--state-dir', fresh])
    expect(text()).toMatch(/gp_live_/)
    await interrupt(child)
    const again = await stack.start(['--state-dir', fresh, '--new-key'])
    const other = keyIn(again.text())
    expect(text()).not.toContain(other)
    expect((await stack.call('/v1/jobs', other)).status).toBe(200)
  })

  test('starts a worker and a gateway again that die, says so, and the job goes on', async () => {
    const { child, text } = await stack.start()
    const created = await stack.call('/v1/jobs', key, { prompt: 'c', n: 4, size: '512x512' })
    const { id } = (await created.json()) as { id: string }
    const isRunning = async () =>
      ((await (await stack.call(`/v1/jobs/${id}`, key)).json()) as { state: string }).state ===
      'running'
    await until(isRunning, text)
    process.kill(await findPart(child, 'gpu-worker/main.ts'), 'SIGKILL')
    process.kill(await findPart(child, 'edge/node.ts'), 'SIGKILL')
    const answers = () =>
      fetch(`http://127.0.0.1:${stack.port}/health/ready`).then(
        (answer) =>
          answer.ok && text().includes('the gateway ended (SIGKILL); it is started again'),
        () => false,
      )
    await until(answers, text)
    expect(await waitForJob(id, key)).toMatchObject({ state: 'succeeded', attempt: 2 })
    expect(text()).toContain('the worker ended (SIGKILL); it is started again')
    expect(await stack.withDatabase(checkBooks)).toEqual([])
  })

  test('refuses a second start on the same folder, and a port that is taken', async () => {
    await stack.start()
    const otherPort = String(await findFreePort())
    const second = await stack.finish(['--port', otherPort, '--state-dir', stack.stateDir])
    expect(second).toMatchObject({ code: 1, text: expect.stringContaining('already runs') })
    const third = await stack.finish([
      '--port',
      String(stack.port),
      '--state-dir',
      join(stack.folder, 'other'),
    ])
    expect(third).toMatchObject({ code: 1, text: expect.stringContaining('--port') })
    // Nothing was made for a start that could not be.
    await expect(stat(join(stack.folder, 'other'))).rejects.toThrow()
  })

  test('names a wrong option and its rule', async () => {
    expect(await stack.finish(['--help'])).toMatchObject({ code: 0 })
    const wrong = await stack.finish(['--threads', 'many'])
    expect(wrong).toMatchObject({ code: 1, text: expect.stringContaining('--threads') })
    expect(wrong.text).not.toContain('    at ')
  })
})
