import { execFile, spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { chown, mkdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { userInfo } from 'node:os'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { findPostgresBinaries, makeReachable } from './postgres-binaries.ts'
import type { PostgresBinaries } from './postgres-binaries.ts'

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
}

const USER = 'glyphpress'
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
 * @throws with the server's own last words when it does not come up
 */
export async function startPostgres(options: LocalPostgresOptions): Promise<LocalPostgres> {
  const identity = userInfo().uid === 0 ? await ensurePostgresUser() : {}
  const binaries = await makeReachable(await findPostgresBinaries(), identity)
  await stopLeftover(options.dataDir)
  await ensureCluster(options, binaries, identity)
  const port = options.port || (await findFreePort())
  const child = spawn(binaries.postgres, serverArguments(options, port), {
    ...identity,
    cwd: options.dataDir,
    stdio: ['ignore', 'pipe', 'pipe'],
    // A Ctrl-C in the terminal must not end it before those that still write to it.
    detached: true,
  })
  const words: string[] = []
  const isReady = watchOutput(child, words)
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()))
  const timer = setTimeout(() => child.kill('SIGKILL'), START_TIMEOUT_MS)
  const outcome = await Promise.race([isReady, ended.then(() => 'ended' as const)])
  clearTimeout(timer)
  if (outcome === 'ended') {
    throw new Error(
      `PostgreSQL did not start in ${options.dataDir}:\n${words.slice(-8).join('\n')}`,
    )
  }
  return {
    url: `postgres://${USER}:${options.password}@127.0.0.1:${port}/postgres`,
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

async function ensureCluster(
  options: LocalPostgresOptions,
  binaries: PostgresBinaries,
  identity: Identity,
): Promise<void> {
  const { dataDir, password } = options
  await mkdir(dataDir, { recursive: true, mode: 0o700 })
  if (identity.uid !== undefined) await chown(dataDir, identity.uid, identity.gid ?? identity.uid)
  const exists = await stat(join(dataDir, 'PG_VERSION')).then(
    () => true,
    () => false,
  )
  if (exists) return
  const passwordFile = `${dataDir}.password`
  await writeFile(passwordFile, password, { mode: 0o600 })
  if (identity.uid !== undefined) {
    await chown(passwordFile, identity.uid, identity.gid ?? identity.uid)
  }
  const args = ['-D', dataDir, '-U', USER, '-E', 'UTF8', '--locale=C', '--no-sync']
  try {
    await run(binaries.initdb, [...args, '--auth=scram-sha-256', `--pwfile=${passwordFile}`], {
      ...identity,
      cwd: dirname(dataDir),
      timeout: START_TIMEOUT_MS,
    })
  } finally {
    await rm(passwordFile, { force: true })
  }
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

async function stopLeftover(dataDir: string): Promise<void> {
  const text = await readFile(join(dataDir, 'postmaster.pid'), 'utf8').catch(() => '')
  const pid = Number.parseInt(text.split('\n')[0] ?? '', 10)
  if (!Number.isInteger(pid) || !(await isPostgres(pid))) return
  process.kill(pid, 'SIGINT')
  for (let waitedMs = 0; waitedMs < STOP_TIMEOUT_MS && (await isPostgres(pid)); waitedMs += 100) {
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
}

async function isPostgres(pid: number): Promise<boolean> {
  const { stdout } = await run('ps', ['-o', 'args=', '-p', String(pid)]).catch(() => ({
    stdout: '',
  }))
  return stdout.includes('postgres')
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
