import { execFile, spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { chown, mkdir, readdir, realpath, rename, rm, stat, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { userInfo } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { LOCAL_USER, localDatabaseUrl } from './database-url.ts'
import { findPostgresBinaries, makeReachable } from './postgres-binaries.ts'
import type { PostgresBinaries } from './postgres-binaries.ts'
import { endLeftover } from './postgres-leftover.ts'

export interface LocalPostgres {
  /** `postgres://...` of the maintenance database, on 127.0.0.1. */
  readonly url: string
  readonly port: number
  /** Ends sessions and shuts the server down; the data stay. Safe to repeat. */
  stop(): Promise<void>
  /** Resolves when the server has ended, for whatever reason. */
  readonly ended: Promise<void>
}

export interface LocalPostgresOptions {
  /** Folder of the cluster; created when it is not there. */
  dataDir: string
  password: string
  /** 0 or absent: any free port. */
  port?: number
  /** Trade the safety of the data for speed; for tests only. */
  isThrowaway?: boolean
  maxConnections?: number
  /** Ends a start that is under way; a server that runs is ended by `stop`. */
  signal?: AbortSignal
  /** Told of each process that is started. */
  onSpawn?: (child: ChildProcess) => void
}

/** Between a cluster's name and the number of an attempt to make it. */
const DRAFT = '.making-'
const START_TIMEOUT_MS = 60_000
/** A fast shutdown disconnects everyone; beyond this the server is killed and recovers at the next start. */
const STOP_TIMEOUT_MS = 6_000
const run = promisify(execFile)

/**
 * Starts the PostgreSQL server that came from the package registry, on loopback only.
 *
 * PostgreSQL refuses to run as root, so under root it runs as the `postgres` user (made when missing). A
 * server left over from a process that was killed is shut down first.
 *
 * @throws with the server's own last words when it does not come up, or the signal's reason
 */
export async function startPostgres(options: LocalPostgresOptions): Promise<LocalPostgres> {
  const { signal } = options
  const identity = userInfo().uid === 0 ? await ensurePostgresUser() : {}
  const binaries = await makeReachable(await findPostgresBinaries(), identity)
  signal?.throwIfAborted()
  await mkdir(options.dataDir, { recursive: true, mode: 0o700 })
  // One name for one folder: a server left over is known by it.
  const dataDir = await realpath(options.dataDir)
  await endLeftover(dataDir, STOP_TIMEOUT_MS)
  signal?.throwIfAborted()
  await ensureCluster({ ...options, dataDir }, binaries, identity)
  const port = options.port || (await findFreePort())
  signal?.throwIfAborted()
  const child = spawn(binaries.postgres, serverArguments({ ...options, dataDir }, port), {
    ...identity,
    cwd: dataDir,
    stdio: ['ignore', 'pipe', 'pipe'],
    // A Ctrl-C in the terminal must not end it before those that still write to it.
    detached: true,
  })
  options.onSpawn?.(child)
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()))
  await waitUntilReady(child, { dataDir, ...(signal === undefined ? {} : { signal }) })
  return {
    url: localDatabaseUrl({ port, password: options.password }),
    port,
    ended,
    async stop() {
      const force = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS)
      child.kill('SIGINT')
      await ended
      clearTimeout(force)
    },
  }
}

async function waitUntilReady(
  child: ChildProcess,
  { dataDir, signal }: { dataDir: string; signal?: AbortSignal },
): Promise<void> {
  const words: string[] = []
  const ended = new Promise<'ended'>((resolve) => {
    // Closed, and not only gone: its last words are read.
    child.once('close', () => resolve('ended'))
    child.once('error', (error) => {
      words.push(error.message)
      resolve('ended')
    })
  })
  const end = () => child.kill('SIGINT')
  signal?.addEventListener('abort', end, { once: true })
  const timer = setTimeout(() => child.kill('SIGKILL'), START_TIMEOUT_MS)
  const outcome = await Promise.race([watchOutput(child, words), ended])
  clearTimeout(timer)
  signal?.removeEventListener('abort', end)
  if (outcome === 'ready') return
  signal?.throwIfAborted()
  throw new Error(`PostgreSQL did not start in ${dataDir}:\n${words.slice(-8).join('\n')}`)
}

function serverArguments(options: LocalPostgresOptions, port: number): string[] {
  const settings: Record<string, string> = {
    listen_addresses: '127.0.0.1',
    port: String(port),
    unix_socket_directories: '',
    max_connections: String(options.maxConnections ?? 100),
    shared_buffers: '128MB',
    log_min_messages: 'warning',
    ...(options.isThrowaway
      ? { fsync: 'off', synchronous_commit: 'off', full_page_writes: 'off' }
      : {}),
  }
  const flags = Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`])
  return ['-D', options.dataDir, ...flags]
}

/**
 * Makes the cluster when there is none: under another name, so that it is there whole or not at all. The making
 * outlives a launcher that is killed.
 */
async function ensureCluster(
  options: LocalPostgresOptions,
  binaries: PostgresBinaries,
  identity: Identity,
): Promise<void> {
  const { dataDir, password, signal } = options
  const { uid, gid = uid } = identity
  const giveAway = async (path: string) => {
    if (uid !== undefined && gid !== undefined) await chown(path, uid, gid)
  }
  await giveAway(dataDir)
  if (await exists(join(dataDir, 'PG_VERSION'))) return
  await removeDrafts(dataDir)
  const draft = `${dataDir}${DRAFT}${randomUUID()}`
  const passwordFile = `${draft}.password`
  await mkdir(draft, { mode: 0o700 })
  await giveAway(draft)
  await writeFile(passwordFile, password, { mode: 0o600 })
  await giveAway(passwordFile)
  const args = ['-D', draft, '-U', LOCAL_USER, '-E', 'UTF8', '--locale=C', '--no-sync']
  try {
    const making = run(
      binaries.initdb,
      [...args, '--auth=scram-sha-256', `--pwfile=${passwordFile}`],
      {
        ...identity,
        cwd: dirname(dataDir),
        timeout: START_TIMEOUT_MS,
        killSignal: 'SIGKILL',
        ...(signal === undefined ? {} : { signal }),
      },
    )
    options.onSpawn?.(making.child)
    await making
    await rename(draft, dataDir)
  } finally {
    await removeDrafts(dataDir)
  }
}

/** What is in use by a making that goes on without us stays, and is removed at another start. */
async function removeDrafts(dataDir: string): Promise<void> {
  const folder = dirname(dataDir)
  for (const name of await readdir(folder)) {
    if (!name.startsWith(`${basename(dataDir)}${DRAFT}`)) continue
    await rm(join(folder, name), { recursive: true, force: true }).catch(() => {})
  }
}

function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  )
}

/** The words "ready to accept connections" are written at level LOG, which `warning` leaves on. */
function watchOutput(child: ChildProcess, words: string[]): Promise<'ready'> {
  return new Promise((resolve) => {
    const read = (chunk: Buffer) => {
      words.push(...chunk.toString().trimEnd().split('\n'))
      words.splice(0, Math.max(0, words.length - 50))
      if (words.some((line) => line.includes('ready to accept connections'))) resolve('ready')
    }
    child.stdout?.on('data', read)
    child.stderr?.on('data', read)
  })
}

export interface Identity {
  uid?: number
  gid?: number
}

async function ensurePostgresUser(): Promise<Identity> {
  const idOf = async (flag: string) => Number((await run('id', [flag, 'postgres'])).stdout)
  try {
    return { uid: await idOf('-u'), gid: await idOf('-g') }
  } catch {
    await run('useradd', ['--system', '--user-group', '--no-create-home', 'postgres'])
    return { uid: await idOf('-u'), gid: await idOf('-g') }
  }
}

/** A TCP port on loopback that nobody listens on at this moment. */
export async function findFreePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(0, '127.0.0.1', resolve)
  })
  const address = server.address()
  await new Promise((resolve) => server.close(resolve))
  if (address === null || typeof address === 'string') throw new Error('no free port on loopback')
  return address.port
}
