import { execFile, spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { chmod, mkdtemp, readFile, readdir, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { closeDatabase, openDatabase } from '../../db/client.ts'
import type { Db } from '../../db/client.ts'
import { findFreePort } from '../../infra/local/postgres.ts'
import { checkBooks } from '../support/books.ts'

const ROOT = resolve(import.meta.dirname, '../..')
const NODE = join(ROOT, 'node_modules/.bin/node')
const FLAGS = ['--disable-warning=ExperimentalWarning', '--experimental-strip-types']
/** First start: a cluster is made, migrated, and a model opened, on a busy machine. */
const START_MS = 60_000
const run = promisify(execFile)

let folder: string
let port: number
let stateDir: string
const alive = new Set<ChildProcess>()

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'glyphpress-e2e-'))
  await chmod(folder, 0o755)
  stateDir = join(folder, 'state')
  port = await findFreePort()
})
afterEach(async () => {
  await Promise.all([...alive].map(stop))
})
afterAll(async () => {
  await rm(folder, { recursive: true, force: true })
})

interface Started {
  child: ChildProcess
  text: () => string
}

function launch(args: string[]): Started {
  const env: NodeJS.ProcessEnv = { ...process.env }
  for (const name of ['DATABASE_URL', 'SQS_QUEUE_URL', 'S3_BUCKET', 'MODEL_DIR', 'KEY_PEPPER']) {
    delete env[name]
  }
  const child = spawn(NODE, [...FLAGS, 'infra/local/start.ts', ...args], {
    cwd: ROOT,
    env,
    detached: true,
  })
  alive.add(child)
  child.once('exit', () => alive.delete(child))
  let text = ''
  const keep = (chunk: Buffer) => {
    text += chunk.toString()
    child.emit('said')
  }
  child.stdout?.on('data', keep)
  child.stderr?.on('data', keep)
  return { child, text: () => text }
}

/** Starts on the test's folder and waits for the last line of the welcome. */
async function start(more: string[] = []): Promise<Started> {
  const own = ['--port', String(port), '--state-dir', stateDir, '--threads', '1']
  const started = launch([...own, ...more])
  const signal = AbortSignal.timeout(START_MS)
  while (!started.text().includes('Ctrl-C stops everything.')) {
    await Promise.race([
      once(started.child, 'said', { signal }),
      once(started.child, 'exit', { signal }).then(() => {
        throw new Error(`it ended:\n${started.text()}`)
      }),
    ])
  }
  return started
}

async function stop(child: ChildProcess): Promise<number | null> {
  if (child.exitCode !== null) return child.exitCode
  const ended = once(child, 'exit')
  // Like Ctrl-C in a terminal: everyone in the foreground group gets it.
  process.kill(-(child.pid ?? 0), 'SIGINT')
  return (await ended)[0] as number | null
}

async function finish(args: string[]): Promise<{ code: number | null; text: string }> {
  const { child, text } = launch(args)
  const [code] = (await once(child, 'close')) as [number | null]
  return { code, text: text() }
}

function call(path: string, key: string, body?: object): Promise<Response> {
  return fetch(`http://127.0.0.1:${port}${path}`, {
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    ...(body === undefined ? {} : { method: 'POST', body: JSON.stringify(body) }),
    signal: AbortSignal.timeout(60_000),
  })
}

/** Ids of all processes that come from this one. */
async function descendantsOf(pid: number): Promise<number[]> {
  const { stdout } = await run('ps', ['-eo', 'pid=,ppid='])
  const rows = stdout
    .trim()
    .split('\n')
    .map((line) => line.trim().split(/\s+/).map(Number) as [number, number])
  const found = [pid]
  for (const parent of found) {
    for (const [child, itsParent] of rows) if (itsParent === parent) found.push(child)
  }
  return found.slice(1)
}

/** The process that runs this script for a launcher. */
async function findPart(launcher: ChildProcess, script: string): Promise<number> {
  const { stdout } = await run('ps', ['-eo', 'pid=,ppid=,args='])
  const rows = stdout.split('\n').map((line) => line.trim().split(/\s+/))
  const found = rows.find(
    ([, parent, ...args]) =>
      Number(parent) === launcher.pid && args.some((each) => each.endsWith(script)),
  )
  return Number(found?.[0])
}

/** Those that are still there after a time that is enough to notice that one's parent is gone. */
async function survivorsOf(pids: number[]): Promise<number[]> {
  const endMs = Date.now() + 10_000
  while (pids.some(isAlive) && Date.now() < endMs) {
    await new Promise((wake) => setTimeout(wake, 50))
  }
  return pids.filter(isAlive)
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

async function waitForJob(id: string, key: string): Promise<{ state: string; attempt: number }> {
  const endMs = Date.now() + 90_000
  for (;;) {
    const job = (await (await call(`/v1/jobs/${id}`, key)).json()) as {
      state: string
      attempt: number
    }
    if (!['accepted', 'queued', 'running'].includes(job.state)) return job
    if (Date.now() > endMs) throw new Error(`job ${id} is still ${job.state}`)
    await new Promise((wake) => setTimeout(wake, 100))
  }
}

/** Looks into the embedded database beside the launcher's own connections. */
async function withDatabase<T>(work: (db: Db) => Promise<T>): Promise<T> {
  const secrets = JSON.parse(await readFile(join(stateDir, 'secrets.json'), 'utf8')) as {
    databasePassword: string
  }
  const pidFile = await readFile(join(stateDir, 'postgres/postmaster.pid'), 'utf8')
  const databasePort = pidFile.split('\n')[3]
  const url = `postgres://glyphpress:${secrets.databasePassword}@127.0.0.1:${databasePort}/postgres`
  const db = openDatabase(url, { maxConnections: 1 })
  try {
    return await work(db)
  } finally {
    await closeDatabase(db)
  }
}

describe('npm start', { timeout: 180_000 }, () => {
  let key = ''

  test('draws a picture with no configuration, and Ctrl-C leaves no process', async () => {
    const { child, text } = await start()
    key = /gp_live_[0-9A-Za-z]{36}/.exec(text())?.[0] ?? ''
    expect(text()).toContain('Random weights')

    // The line that it prints is what a person pastes.
    const line = text()
      .split('\n')
      .find((each) => each.startsWith('curl '))
    const { stdout } = await run('sh', ['-c', line ?? 'false'])
    const { data } = JSON.parse(stdout) as { data: { url: string; sha256: string }[] }
    const picture = await fetch(data[0]?.url ?? '')
    expect(picture.headers.get('content-type')).toBe('image/png')
    const bytes = new Uint8Array(await picture.arrayBuffer())
    expect(createHash('sha256').update(bytes).digest('hex')).toBe(data[0]?.sha256)

    expect((await stat(join(stateDir, 'secrets.json'))).mode & 0o777).toBe(0o600)
    expect(await readdir(join(stateDir, 'logs'))).toEqual(['gateway.log', 'worker.log'])
    expect(await withDatabase(checkBooks)).toEqual([])

    const others = await descendantsOf(child.pid ?? 0)
    expect(others.length).toBeGreaterThanOrEqual(4)
    const startedMs = Date.now()
    expect(await stop(child)).toBe(0)
    expect(Date.now() - startedMs).toBeLessThan(10_000)
    expect(others.filter(isAlive)).toEqual([])
  })

  test('keeps jobs, pictures and keys over a restart and shows no key again', async () => {
    const { text } = await start()
    expect(text()).not.toContain('gp_live_')
    const { data } = (await (await call('/v1/jobs', key)).json()) as {
      data: { state: string; outputs: { url: string; sha256: string }[] }[]
    }
    expect(data.map(({ state }) => state)).toEqual(['succeeded'])
    const output = data[0]?.outputs[0]
    const bytes = new Uint8Array(await (await fetch(output?.url ?? '')).arrayBuffer())
    expect(createHash('sha256').update(bytes).digest('hex')).toBe(output?.sha256)
  })

  test('goes on with a job that the stop interrupted, and with one that a kill interrupted', async () => {
    const first = await start()
    const created = await call('/v1/jobs', key, { prompt: 'a', n: 4, size: '512x512' })
    const { id } = (await created.json()) as { id: string }
    await stop(first.child)

    const second = await start()
    const other = await call('/v1/jobs', key, { prompt: 'b', n: 4, size: '512x512' })
    const { id: otherId } = (await other.json()) as { id: string }
    expect((await waitForJob(id, key)).state).toBe('succeeded')
    const [interrupted] = await withDatabase(
      (db) => db.sql<{ failed: number }[]>`
        select failed_attempts as failed from job where id = ${id}`,
    )
    expect(interrupted, 'a stop is not a failure of the job').toEqual({ failed: 0 })
    for (const pid of [...(await descendantsOf(second.child.pid ?? 0)), second.child.pid ?? 0]) {
      if (isAlive(pid)) process.kill(pid, 'SIGKILL')
    }
    await once(second.child, 'exit').catch(() => {})

    await start()
    expect((await waitForJob(otherId, key)).state).toBe('succeeded')
    expect(await withDatabase(checkBooks)).toEqual([])
  })

  test('that is killed takes its parts along and can be started again on the same port', async () => {
    const { child } = await start()
    const parts = [
      await findPart(child, 'edge/node.ts'),
      await findPart(child, 'gpu-worker/main.ts'),
    ]
    const engines = (await Promise.all(parts.map(descendantsOf))).flat()
    expect(engines.length).toBeGreaterThan(0)
    child.kill('SIGKILL')
    await once(child, 'exit')
    expect(await survivorsOf([...parts, ...engines])).toEqual([])
    await start()
    expect((await call('/v1/jobs', key)).status).toBe(200)
  })

  test('stops, and says why, when its database server dies', async () => {
    const { child, text } = await start()
    const others = await descendantsOf(child.pid ?? 0)
    const [serverPid] = (await readFile(join(stateDir, 'postgres/postmaster.pid'), 'utf8')).split(
      '\n',
    )
    const ended = once(child, 'exit')
    process.kill(Number(serverPid), 'SIGKILL')
    expect((await ended)[0]).toBe(1)
    expect(text()).toContain('The database server has ended')
    expect(await survivorsOf(others)).toEqual([])
  })

  test('shows another key when asked, and a start that fails does not swallow the first one', async () => {
    const fresh = join(folder, 'fresh')
    const own = ['--port', String(port), '--state-dir', fresh]
    const failed = await finish([...own, '--model', folder])
    expect(failed.code).toBe(1)
    expect(failed.text).toContain('vision_language_encoder/config.json: file is missing')
    expect(failed.text).not.toContain('started again')
    const { child, text } = await start(['--state-dir', fresh])
    expect(text()).toMatch(/gp_live_/)
    await stop(child)
    const again = await start(['--state-dir', fresh, '--new-key'])
    const other = /gp_live_[0-9A-Za-z]{36}/.exec(again.text())?.[0] ?? ''
    expect(text()).not.toContain(other)
    expect((await call('/v1/jobs', other)).status).toBe(200)
  })

  test('starts a worker again that dies, and its job goes on', async () => {
    const { child, text } = await start()
    const created = await call('/v1/jobs', key, { prompt: 'c', n: 4, size: '512x512' })
    const { id } = (await created.json()) as { id: string }
    const isRunning = async () =>
      ((await (await call(`/v1/jobs/${id}`, key)).json()) as { state: string }).state === 'running'
    while (!(await isRunning()));
    process.kill(await findPart(child, 'gpu-worker/main.ts'), 'SIGKILL')
    expect(await waitForJob(id, key)).toMatchObject({ state: 'succeeded', attempt: 2 })
    expect(text()).toContain('the worker ended (SIGKILL)')
    expect(await withDatabase(checkBooks)).toEqual([])
  })

  test('starts a gateway again that dies, and says so', async () => {
    const { child, text } = await start()
    process.kill(await findPart(child, 'edge/node.ts'), 'SIGKILL')
    const endMs = Date.now() + 30_000
    const answers = async () =>
      fetch(`http://127.0.0.1:${port}/health/ready`).then(
        (answer) => answer.ok && text().includes('started again'),
        () => false,
      )
    while (!(await answers())) {
      if (Date.now() > endMs) throw new Error(text())
      await new Promise((wake) => setTimeout(wake, 100))
    }
    expect(text()).toContain('the gateway ended (SIGKILL)')
  })

  test('refuses a second start on the same folder, and a port that is taken', async () => {
    await start()
    const otherPort = String(await findFreePort())
    const second = await finish(['--port', otherPort, '--state-dir', stateDir])
    expect(second).toMatchObject({ code: 1, text: expect.stringContaining('already runs') })
    const third = await finish(['--port', String(port), '--state-dir', join(folder, 'other')])
    expect(third).toMatchObject({ code: 1, text: expect.stringContaining('--port') })
    // Nothing was made for a start that could not be.
    await expect(stat(join(folder, 'other'))).rejects.toThrow()
  })

  test('names a wrong option and its rule', async () => {
    expect(await finish(['--help'])).toMatchObject({ code: 0 })
    const wrong = await finish(['--threads', 'many'])
    expect(wrong).toMatchObject({ code: 1, text: expect.stringContaining('--threads') })
    expect(wrong.text).not.toContain('    at ')
  })
})
