import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  chmod,
  mkdir,
  mkdtemp,
  readFile,
  readdir,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { closeDatabase, openDatabase } from '../../db/client.ts'
import { startPostgres } from '../../infra/local/postgres.ts'
import type { LocalPostgres } from '../../infra/local/postgres.ts'

let folder: string
const servers = new Set<LocalPostgres>()

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'glyphpress-servers-'))
  await chmod(folder, 0o755)
})
afterAll(async () => {
  await Promise.all([...servers].map((server) => server.stop()))
  await rm(folder, { recursive: true, force: true })
})

async function start(dataDir: string, signal?: AbortSignal): Promise<LocalPostgres> {
  const own = { dataDir, password: 'test', isThrowaway: true, maxConnections: 10 }
  const server = await startPostgres(signal === undefined ? own : { ...own, signal })
  servers.add(server)
  return server
}

async function answers({ url }: LocalPostgres): Promise<boolean> {
  const db = openDatabase(url, { maxConnections: 1 })
  try {
    return (await db.sql`select 1`).length === 1
  } finally {
    await closeDatabase(db)
  }
}

/** What a killed server leaves behind, when its number has become another process's. */
async function leaveNumber(dataDir: string, pid: number): Promise<void> {
  const rest = [dataDir, '1792000000', '1', '', '127.0.0.1', '  1234567    123456', 'ready   ', '']
  await writeFile(join(dataDir, 'postmaster.pid'), [pid, ...rest].join('\n'))
}

test('a server that a killed process left behind is shut down, also behind a link', async () => {
  const real = join(folder, 'left')
  const link = join(folder, 'link')
  await mkdir(real)
  await symlink(real, link)
  const left = await start(link)
  const next = await start(real)
  await left.ended
  expect(await answers(next)).toBe(true)
})

test('a number left behind that is now a stranger’s neither harms the stranger nor bars the start', async () => {
  const dataDir = join(folder, 'stale')
  await (await start(dataDir)).stop()
  const stranger = await start(join(folder, 'stranger'))
  const [pid] = (await readFile(join(folder, 'stranger/postmaster.pid'), 'utf8')).split('\n')
  await leaveNumber(dataDir, Number(pid))
  const beside = await start(dataDir)
  expect([await answers(beside), await answers(stranger)]).toEqual([true, true])
  await beside.stop()

  // The server minds processes of its own user alone.
  const { uid, gid } = await stat(dataDir)
  const sleeper = spawn('sleep', ['60'], process.getuid?.() === 0 ? { uid, gid } : {})
  await once(sleeper, 'spawn')
  await leaveNumber(dataDir, sleeper.pid ?? 0)
  expect(await answers(await start(dataDir))).toBe(true)
  expect(sleeper.exitCode ?? sleeper.signalCode).toBe(null)
  sleeper.kill('SIGKILL')
})

test('a cluster whose making was cut off is made anew, even while that making goes on', async () => {
  const dataDir = join(folder, 'cut')
  const cut = new AbortController()
  const starting = start(dataDir, cut.signal)
  const drafts = async () => (await readdir(folder)).filter((name) => name.startsWith('cut.'))
  const isUnderWay = async () => {
    const made = await Promise.all(
      (await drafts()).map((name) => readdir(join(folder, name)).catch(() => [])),
    )
    return made.flat().includes('PG_VERSION')
  }
  await expect.poll(isUnderWay, { interval: 1 }).toBe(true)
  cut.abort(new Error('cut off'))
  await expect(starting).rejects.toThrow()
  expect(await answers(await start(dataDir))).toBe(true)
  expect((await readdir(folder)).filter((name) => name.endsWith('.password'))).toEqual([])
})

test('a start that is called off while the server comes up leaves none', async () => {
  const dataDir = join(folder, 'off')
  await (await start(dataDir)).stop()
  const off = new AbortController()
  const starting = start(dataDir, off.signal)
  const pidFile = join(dataDir, 'postmaster.pid')
  await expect.poll(() => stat(pidFile).catch(() => null), { interval: 1 }).not.toBe(null)
  off.abort(new Error('called off'))
  await expect(starting).rejects.toThrow('called off')
  await expect(stat(pidFile)).rejects.toThrow()
})
