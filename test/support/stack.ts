import { execFile, spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { chmod, mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { closeDatabase, openDatabase } from '../../db/client.ts'
import type { Db } from '../../db/client.ts'
import { findFreePort } from '../../infra/local/postgres.ts'
import { MODEL_DIR } from './worker.ts'

const ROOT = resolve(import.meta.dirname, '../..')
const NODE = join(ROOT, 'node_modules/.bin/node')
const FLAGS = ['--disable-warning=ExperimentalWarning', '--experimental-strip-types']
/** A cluster is made, migrated, and a model opened, beside other test files. */
const START_MS = 60_000
/** What a developer may have set for himself must not reach a stack under test. */
const OWN_NAMES = /^(DATABASE_URL|MODEL_DIR|KEY_PEPPER|(AWS|S3|SQS|OTEL|METRICS)_.*)$/
const run = promisify(execFile)

export interface Started {
  child: ChildProcess
  /** What it has shown so far. */
  text: () => string
}

export type Stack = Awaited<ReturnType<typeof openStack>>

/**
 * A folder and a port for `npm start`, which is run as a process of its own. It draws with the small checkpoint of the
 * tests, quicker than the bundled one, unless a start names another; an empty MODEL_DIR is the bundled one.
 */
export async function openStack() {
  const folder = await mkdtemp(join(tmpdir(), 'glyphpress-e2e-'))
  await chmod(folder, 0o755)
  const port = await findFreePort()
  const alive = new Set<ChildProcess>()

  const launch = (args: string[], env: Record<string, string> = {}): Started => {
    const clean = Object.entries(process.env).filter(([name]) => !OWN_NAMES.test(name))
    const child = spawn(NODE, [...FLAGS, 'infra/local/start.ts', ...args], {
      cwd: ROOT,
      env: { ...Object.fromEntries(clean), MODEL_DIR, ...env },
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
  const stateDir = join(folder, 'state')
  const argumentsFor = (dir: string) => [
    '--port',
    String(port),
    '--state-dir',
    dir,
    '--threads',
    '1',
  ]
  return {
    folder,
    port,
    stateDir,
    launch,
    /** Begins a start on a state folder; it goes on by itself. */
    begin: (dir: string, env?: Record<string, string>) => launch(argumentsFor(dir), env),
    /** Starts and waits for the last line of the welcome. */
    async start(more: string[] = [], env: Record<string, string> = {}): Promise<Started> {
      const started = launch([...argumentsFor(stateDir), ...more], env)
      await untilSaid(started, 'Ctrl-C stops everything.')
      return started
    },
    async finish(args: string[]): Promise<{ code: number | null; text: string }> {
      const { child, text } = launch(args)
      const [code] = (await once(child, 'close')) as [number | null]
      return { code, text: text() }
    },
    call: (path: string, key: string, body?: object) =>
      fetch(`http://127.0.0.1:${port}${path}`, {
        headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
        ...(body === undefined ? {} : { method: 'POST', body: JSON.stringify(body) }),
        signal: AbortSignal.timeout(60_000),
      }),
    /** Looks into the embedded database beside the launcher's own connections. */
    async withDatabase<T>(work: (db: Db) => Promise<T>): Promise<T> {
      const secrets = JSON.parse(await readFile(join(stateDir, 'secrets.json'), 'utf8')) as {
        databasePassword: string
      }
      const pidFile = await readFile(join(stateDir, 'postgres/postmaster.pid'), 'utf8')
      const databasePort = pidFile.split('\n')[3]
      const db = openDatabase(
        `postgres://glyphpress:${secrets.databasePassword}@127.0.0.1:${databasePort}/postgres`,
        { maxConnections: 1 },
      )
      try {
        return await work(db)
      } finally {
        await closeDatabase(db)
      }
    },
    /** Ends what runs; for `afterEach`. */
    async stopAll(): Promise<void> {
      await Promise.all([...alive].map(interrupt))
    },
    async close(): Promise<void> {
      await Promise.all([...alive].map(interrupt))
      await rm(folder, { recursive: true, force: true })
    },
  }
}

/** @throws with everything that it said when it ends before it says that */
export async function untilSaid({ child, text }: Started, words: string): Promise<void> {
  const signal = AbortSignal.timeout(START_MS)
  while (!text().includes(words)) {
    await Promise.race([
      once(child, 'said', { signal }),
      once(child, 'exit', { signal }).then(() => {
        throw new Error(`it ended:\n${text()}`)
      }),
    ])
  }
}

/** Like Ctrl-C in a terminal: everyone in the foreground group gets it. Resolves with the exit code. */
export async function interrupt(child: ChildProcess): Promise<number | null> {
  if (child.exitCode !== null) return child.exitCode
  const ended = once(child, 'exit')
  process.kill(-(child.pid ?? 0), 'SIGINT')
  return (await ended)[0] as number | null
}

export function keyIn(text: string): string {
  return /gp_live_[0-9A-Za-z]{36}/.exec(text)?.[0] ?? ''
}

/** Fetches a picture as anybody can who has its URL, and holds it against the checksum in the answer. */
export async function fetchPicture(output: { url: string; sha256: string } | undefined) {
  const response = await fetch(output?.url ?? '')
  const bytes = new Uint8Array(await response.arrayBuffer())
  const sha256 = createHash('sha256').update(bytes).digest('hex')
  if (sha256 !== output?.sha256) throw new Error(`not the picture: ${response.status} ${sha256}`)
  return { type: response.headers.get('content-type'), bytes, finalUrl: response.url }
}

/** Ids of all processes that come from this one. */
export async function descendantsOf(pid: number): Promise<number[]> {
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
export async function findPart(launcher: ChildProcess, script: string): Promise<number> {
  const { stdout } = await run('ps', ['-eo', 'pid=,ppid=,args='])
  const rows = stdout.split('\n').map((line) => line.trim().split(/\s+/))
  const found = rows.find(
    ([, parent, ...args]) =>
      Number(parent) === launcher.pid && args.some((each) => each.endsWith(script)),
  )
  return Number(found?.[0])
}

/** Those that are still there after a time that is enough to notice that one's parent is gone. */
export async function survivorsOf(pids: number[]): Promise<number[]> {
  const endMs = Date.now() + 10_000
  while (pids.some(isAlive) && Date.now() < endMs) {
    await new Promise((wake) => setTimeout(wake, 50))
  }
  return pids.filter(isAlive)
}

export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}
