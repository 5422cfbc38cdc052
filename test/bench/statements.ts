/**
 * A month of many usage lines: reading its statement, closing it, and writing it as FOCUS, as JSON on standard output.
 *
 *   node --experimental-strip-types test/bench/statements.ts [--lines 1000000]
 */
import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { closeStatement } from '../../billing/statement/close.ts'
import { exportStatement } from '../../billing/statement/export.ts'
import { parseMonth } from '../../billing/statement/month.ts'
import { closeDatabase, openDatabase } from '../../db/client.ts'
import { migrateDatabase } from '../../db/migrate-cli.ts'
import { startPostgres } from '../../infra/local/postgres.ts'
import { createBareTenant } from '../support/jobs.ts'
import { describeMachine } from '../support/machine.ts'
import { multiplyLines } from '../support/statement-lines.ts'
import { buyAt } from '../support/statement-world.ts'

const { values } = parseArgs({ options: { lines: { type: 'string', default: '1000000' } } })
const count = Number(values.lines)
const AUGUST = parseMonth('2026-08')
if (!AUGUST) throw new Error('a month is none')

const folder = await mkdtemp(join(tmpdir(), 'glyphpress-bench-'))
await chmod(folder, 0o755)
const server = await startPostgres({
  dataDir: join(folder, 'pg'),
  password: 'bench',
  isThrowaway: true,
})
try {
  await migrateDatabase(server.url)
  const db = openDatabase(server.url, { maxConnections: 2 })
  const tenant = await createBareTenant(db)
  await buyAt(db, tenant, { n: 1, delivered: 1, at: new Date('2026-07-01T00:00:00Z') })
  await multiplyLines(db, { orgId: tenant.orgId, from: '2026-08-01T00:00:00Z', count })
  const scope = { orgId: tenant.orgId, teamId: null, month: AUGUST }
  const read = await timed(() =>
    exportStatement(db, scope, { format: 'json', focus: { version: '1.4' } }),
  )
  const close = await timed(() => closeStatement(db, scope))
  const focus = await timed(async () => {
    const made = await exportStatement(db, scope, { format: 'focus', focus: { version: '1.4' } })
    let bytes = 0
    let peak = 0
    for await (const piece of made?.body ?? []) {
      bytes += piece.length
      peak = Math.max(peak, process.memoryUsage().rss)
    }
    return { megabytes: Math.round(bytes / 1e6), peakRssMb: Math.round(peak / 2 ** 20) }
  })
  const report = {
    machine: describeMachine(),
    lines: count,
    readSeconds: read.seconds,
    // Lines of a bench have no ledger behind them, so the closing says so; it has compared all of them.
    closeSeconds: close.seconds,
    focusSeconds: focus.seconds,
    ...focus.value,
  }
  console.log(JSON.stringify(report, null, 2))
  await closeDatabase(db)
} finally {
  await server.stop()
  await rm(folder, { recursive: true, force: true })
}

async function timed<T>(work: () => Promise<T>): Promise<{ value: T; seconds: number }> {
  const start = performance.now()
  const value = await work()
  return { value, seconds: Math.round((performance.now() - start) / 100) / 10 }
}
