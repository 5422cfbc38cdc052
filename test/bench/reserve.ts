/**
 * Reservations per second on a PostgreSQL that really writes (fsync on), as JSON on standard output.
 *
 *   node --experimental-strip-types test/bench/reserve.ts [--seconds 5] [--connections 32] [--tenants 500]
 *
 * `DATABASE_URL` names another server with an empty database; its figures are then those of that server.
 * Client and server share this machine's cores unless it is set.
 */
import { readFileSync } from 'node:fs'
import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { settleJob } from '../../billing/settle.ts'
import { closeDatabase, openDatabase } from '../../db/client.ts'
import type { Db } from '../../db/client.ts'
import { claimJob } from '../../db/job-claims.ts'
import { migrateDatabase } from '../../db/migrate-cli.ts'
import { startPostgres } from '../../infra/local/postgres.ts'
import { checkBooks } from '../support/books.ts'
import { startDelayProxy } from '../support/delay-proxy.ts'
import { createBareTenant, deliver, reserve } from '../support/jobs.ts'
import type { BareTenant } from '../support/jobs.ts'
import { describeMachine } from '../support/machine.ts'

interface Scenario {
  name: string
  tenants: number
  connections: number
  roundTripMs: number
  /** Callers at once; more than connections, so that none of these idles. */
  callers: number
  isSettled: boolean
  goalPerSecond: number | null
}

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '5' },
    connections: { type: 'string', default: '32' },
    tenants: { type: 'string', default: '500' },
  },
})
const seconds = Number(values.seconds)
const connections = Number(values.connections)
const tenants = Number(values.tenants)

const base = { connections, callers: connections * 2, roundTripMs: 0, isSettled: false }
const SCENARIOS: Scenario[] = [
  { ...base, name: 'many_tenants', tenants, goalPerSecond: 5_000 },
  { ...base, name: 'one_tenant_20ms', tenants: 1, roundTripMs: 20, goalPerSecond: 500 },
  { ...base, name: 'one_tenant', tenants: 1, goalPerSecond: null },
  {
    ...base,
    name: 'one_tenant_one_connection',
    tenants: 1,
    connections: 1,
    callers: 2,
    goalPerSecond: null,
  },
  { ...base, name: 'many_tenants_with_settle', tenants, isSettled: true, goalPerSecond: null },
]

async function measure(url: string, scenario: Scenario) {
  const direct = openDatabase(url, { maxConnections: 8 })
  const proxy = scenario.roundTripMs
    ? await startDelayProxy(Number(new URL(url).port || 5432), scenario.roundTripMs)
    : null
  const route = new URL(url)
  if (proxy) route.port = String(proxy.port)
  const db = openDatabase(route.href, { maxConnections: scenario.connections })
  const list: BareTenant[] = []
  for (let index = 0; index < scenario.tenants; index++) list.push(await createBareTenant(direct))
  await Promise.all(
    Array.from({ length: scenario.connections }, () => db.sql`select pg_sleep(0.05)`),
  )

  const serverPids = (
    await db.sql<{ pid: number }[]>`
      select pid from pg_stat_activity where datname = current_database() and backend_type = 'client backend'`
  ).map(({ pid }) => pid)
  const serverMsBefore = own ? null : cpuMsOf(serverPids)
  const clientBefore = process.cpuUsage()
  const times: number[] = []
  const startedAt = performance.now()
  const endsAt = startedAt + seconds * 1000
  let turn = 0
  await Promise.all(
    Array.from({ length: scenario.callers }, async () => {
      while (performance.now() < endsAt) {
        const tenant = list[turn++ % list.length]
        if (!tenant) return
        const calledAt = performance.now()
        await buy(db, tenant, scenario.isSettled)
        times.push(performance.now() - calledAt)
      }
    }),
  )
  const tookSeconds = (performance.now() - startedAt) / 1000
  const client = process.cpuUsage(clientBefore)
  const serverMs = serverMsBefore === null ? null : cpuMsOf(serverPids) - serverMsBefore
  const broken = await checkBooks(direct)
  await closeDatabase(db)
  await closeDatabase(direct)
  await proxy?.close()
  times.sort((a, b) => a - b)
  const percentile = (p: number) => Number((times[Math.floor(times.length * p)] ?? 0).toFixed(2))
  return {
    ...scenario,
    reservations: times.length,
    perSecond: Math.round(times.length / tookSeconds),
    latencyMs: { p50: percentile(0.5), p99: percentile(0.99), max: percentile(0.9999) },
    // Unlike the rate, these hardly depend on what else this machine is doing.
    cpuMsPerReservation: {
      server: serverMs === null ? null : Number((serverMs / times.length).toFixed(3)),
      client: Number(((client.user + client.system) / 1000 / times.length).toFixed(3)),
    },
    books: broken.length === 0 ? 'balance' : broken,
  }
}

/** CPU time of these processes so far. Linux only; 0 elsewhere. */
function cpuMsOf(pids: number[]): number {
  const MS_PER_TICK = 10
  let ticks = 0
  for (const pid of pids) {
    try {
      const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? []
      ticks += Number(fields[11]) + Number(fields[12])
    } catch {
      return 0
    }
  }
  return ticks * MS_PER_TICK
}

async function buy(db: Db, tenant: BareTenant, isSettled: boolean): Promise<void> {
  const result = await reserve(db, tenant)
  if (!result.ok) throw new Error(result.reason)
  if (!isSettled) return
  const { jobId } = result
  await claimJob(db, { jobId, workerId: 'bench', leaseSeconds: 60, maxFailedAttempts: 3 })
  await deliver(db, jobId, 1)
  await settleJob(db, { jobId, attempt: 1, outcome: 'succeeded' })
}

const machine = describeMachine()
const own = process.env.DATABASE_URL
const folder = await mkdtemp(join(tmpdir(), 'glyphpress-bench-'))
await chmod(folder, 0o755)
const server = own
  ? null
  : await startPostgres({ dataDir: join(folder, 'pg'), password: 'bench', maxConnections: 200 })
try {
  const url = own ?? server?.url ?? ''
  await migrateDatabase(url)
  const results: Awaited<ReturnType<typeof measure>>[] = []
  for (const scenario of SCENARIOS) results.push(await measure(url, scenario))
  const db = openDatabase(url, { maxConnections: 1 })
  const settings = await db.sql<{ name: string; setting: string }[]>`
    select name, setting from pg_settings
     where name in ('server_version', 'fsync', 'synchronous_commit', 'shared_buffers', 'full_page_writes')`
  await closeDatabase(db)
  const report = {
    bench: 'reserve',
    machine,
    loadAfter: describeMachine().load,
    isServerElsewhere: own !== undefined,
    postgres: Object.fromEntries(settings.map(({ name, setting }) => [name, setting])),
    results,
  }
  console.log(JSON.stringify(report, null, 2))
} finally {
  await server?.stop()
  await rm(folder, { recursive: true, force: true })
}
