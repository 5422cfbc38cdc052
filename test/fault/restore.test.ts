import { execFile } from 'node:child_process'
import { chmod, chown, mkdtemp, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, expect, test } from 'vitest'
import { closeDatabase, openDatabase } from '../../db/client.ts'
import { migrateDatabase } from '../../db/migrate-cli.ts'
import { restageDispatch, takeDueDispatches } from '../../db/outbox.ts'
import { settleJob } from '../../billing/settle.ts'
import { claimJob } from '../../db/job-claims.ts'
import { startPostgres } from '../../infra/local/postgres.ts'
import { checkBooks } from '../support/books.ts'
import { createBareTenant, deliver, reserve } from '../support/jobs.ts'

const folders: string[] = []
const ends: (() => Promise<unknown>)[] = []
afterAll(async () => {
  for (const end of ends.toReversed()) await end()
  await Promise.all(folders.map((folder) => rm(folder, { recursive: true, force: true })))
})

async function start(dataDir: string) {
  const server = await startPostgres({ dataDir, password: 'test', maxConnections: 10 })
  const db = openDatabase(server.url, { maxConnections: 2 })
  const stop = async () => {
    await closeDatabase(db)
    await server.stop()
  }
  ends.push(stop)
  return { url: server.url, db, stop }
}

/** With owners and modes: the server refuses files of anybody else. */
async function copyAs(from: string, to: string): Promise<void> {
  await promisify(execFile)('cp', ['-a', from, to]).catch((error: unknown) => {
    // The server removes files of its own while it runs; the log that is copied afterwards knows of it.
    if (!/No such file/.test(String(error))) throw error
  })
}

test('a copy of a running server, started elsewhere, has balanced books and sends its unfinished jobs again', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'glyphpress-restore-'))
  folders.push(folder)
  await chmod(folder, 0o755)
  const source = await start(join(folder, 'source'))
  await migrateDatabase(source.url)
  const tenant = await createBareTenant(source.db, { org: { maxInflight: 100 } })
  const make = async () => {
    const made = await reserve(source.db, tenant, { n: 1 })
    if (!made.ok) throw new Error(made.reason)
    return made.jobId
  }
  const drawn = await make()
  await claimJob(source.db, { jobId: drawn, workerId: 'w', leaseSeconds: 60, maxFailedAttempts: 3 })
  await deliver(source.db, drawn, 1, 0)
  await settleJob(source.db, { jobId: drawn, attempt: 1, outcome: 'succeeded' })
  const waiting = await make()
  await source.db.sql`update outbox set done_at = now()`

  // An online copy as the manual has it: the files while the server runs, and what it wrote meanwhile.
  const copy = join(folder, 'copy')
  await source.db.sql.reserve().then(async (session) => {
    await session`select pg_backup_start('restore test', true)`
    await copyAs(join(folder, 'source'), copy)
    const late = await make()
    expect(late).not.toBe(waiting)
    const [end] = await session<{ labelfile: string }[]>`select * from pg_backup_stop(false)`
    session.release()
    await copyAs(`${join(folder, 'source/pg_wal')}/.`, join(copy, 'pg_wal'))
    await writeFile(join(copy, 'backup_label'), end?.labelfile ?? '')
    const { uid, gid } = await stat(copy)
    await chown(join(copy, 'backup_label'), uid, gid)
  })
  await rm(join(copy, 'postmaster.pid'), { force: true })
  await rm(join(copy, 'postmaster.opts'), { force: true })
  await source.stop()
  ends.pop()

  const restored = await start(copy)
  // Running it twice does nothing.
  await migrateDatabase(restored.url)
  expect(await checkBooks(restored.db)).toEqual([])
  const states = await restored.db.sql<{ id: string; state: string }[]>`
    select id, state from job order by created_at`
  expect(states.slice(0, 2).map(({ id, state }) => [id, state === 'succeeded'])).toEqual([
    [drawn, true],
    [waiting, false],
  ])
  await restageDispatch(restored.db, { olderThanSeconds: 0, limit: 100 })
  const due = await takeDueDispatches(restored.db, { limit: 100, graceSeconds: 0 })
  expect(due.map(({ jobId }) => jobId)).toContain(waiting)
  expect(due.map(({ jobId }) => jobId)).not.toContain(drawn)
})
