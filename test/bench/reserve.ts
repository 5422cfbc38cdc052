/**
 * Reservations per second on a PostgreSQL that really writes (fsync on), as JSON on standard output.
 *
 *   npm run bench:reserve -- [--seconds 5] [--connections 32] [--tenants 500] [--only name,name] [--out FILE]
 *
 * `DATABASE_URL` names another server with an empty database; its figures are then those of that server.
 * Client and server share this machine's cores unless it is set. Scenarios called `bare_...` do the least that could be
 * called the same, in the same server: see test/bench/bare.ts.
 */
import { readFileSync } from 'node:fs'
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { createReserveQueue } from '../../billing/reserve-queue.ts'
import { reserveJob } from '../../billing/reserve.ts'
import { settleJob } from '../../billing/settle.ts'
import { closeDatabase, openDatabase } from '../../db/client.ts'
import type { Db } from '../../db/client.ts'
import { claimJob } from '../../db/job-claims.ts'
import { migrateDatabase } from '../../db/migrate-cli.ts'
import { startPostgres } from '../../infra/local/postgres.ts'
import { checkBooks } from '../support/books.ts'
import { startDelayProxy } from '../support/delay-proxy.ts'
import { LIST_PRICE, createBareKey, createBareTenant, deliver, newJob } from '../support/jobs.ts'
import type { BareTenant } from '../support/jobs.ts'
import { describeMachine } from '../support/machine.ts'
import { buyBare, createBareTables, holdBare } from './bare.ts'

interface Scenario {
  name: string
  /** Orgs; a hot org has 19 teams and 300 keys instead. */
  tenants: number
  isHot: boolean
  connections: number
  roundTripMs: number
  /** Callers at once. */
  callers: number
  /** Through the writer of each org, as the gateway on Node does. */
  isQueued: boolean
  /** What is bought: the hold alone, or the whole life of a job; `bare_` is the reference. */
  work: 'reserve' | 'life' | 'bare_hold' | 'bare_life'
  goalPerSecond: number | null
  /** Where the goal is another scenario of this run: its share. */
  goalOf: { name: string; share: number } | null
}

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '5' },
    connections: { type: 'string', default: '32' },
    tenants: { type: 'string', default: '500' },
    only: { type: 'string' },
    out: { type: 'string' },
  },
})
const seconds = Number(values.seconds)
const connections = Number(values.connections)
const tenants = Number(values.tenants)
const only = values.only?.split(',')
/** So that every connection has its plans before the clock starts. */
const WARM_UP_SECONDS = 1

const base = {
  connections,
  callers: connections,
  tenants: 1,
  isHot: false,
  isQueued: false,
  roundTripMs: 0,
  work: 'reserve' as const,
  goalPerSecond: null,
  goalOf: null,
}
const SCENARIOS: Scenario[] = [
  { ...base, name: 'many_tenants', tenants, callers: connections * 2, goalPerSecond: 5_000 },
  { ...base, name: 'many_tenants_queued', tenants, callers: connections * 2, isQueued: true },
  { ...base, name: 'one_tenant_20ms', callers: connections * 2, roundTripMs: 20 },
  {
    ...base,
    name: 'one_tenant_20ms_queued',
    callers: connections * 2,
    roundTripMs: 20,
    isQueued: true,
    goalPerSecond: 500,
  },
  { ...base, name: 'one_tenant_one_connection', connections: 1, callers: 1 },
  { ...base, name: 'bare_hot_org', isHot: true, work: 'bare_hold' },
  { ...base, name: 'hot_org', isHot: true },
  {
    ...base,
    name: 'hot_org_queued',
    isHot: true,
    isQueued: true,
    goalPerSecond: 1_864,
    goalOf: { name: 'bare_hot_org', share: 1 },
  },
  {
    ...base,
    name: 'hot_org_queued_200_callers',
    isHot: true,
    isQueued: true,
    callers: 200,
    goalPerSecond: 1_864,
    goalOf: { name: 'bare_hot_org', share: 1 },
  },
  { ...base, name: 'bare_life', tenants, work: 'bare_life' },
  {
    ...base,
    name: 'many_tenants_with_settle',
    tenants,
    work: 'life',
    goalPerSecond: 1_796,
    goalOf: { name: 'bare_life', share: 1 },
  },
]

/** One org with 19 teams and 300 keys. */
async function createHotOrg(db: Db): Promise<BareTenant[]> {
  const first = await createBareTenant(db)
  const list = [first]
  const teamIds = [first.teamId]
  for (let index = 1; index < 300; index++) {
    const teamId = teamIds.length < 19 ? undefined : teamIds[index % 19]
    const made = await createBareKey(db, first.orgId, teamId === undefined ? {} : { teamId })
    if (teamId === undefined) teamIds.push(made.teamId)
    list.push({ orgId: first.orgId, ...made })
  }
  return list
}

async function measure(url: string, scenario: Scenario) {
  const direct = openDatabase(url, { maxConnections: 8, statementTimeoutMs: 120_000 })
  const proxy = scenario.roundTripMs
    ? await startDelayProxy(Number(new URL(url).port || 5432), scenario.roundTripMs)
    : null
  const route = new URL(url)
  if (proxy) route.port = String(proxy.port)
  const db = openDatabase(route.href, { maxConnections: scenario.connections })
  const list = scenario.isHot ? await createHotOrg(direct) : []
  while (list.length < scenario.tenants) list.push(await createBareTenant(direct))
  if (scenario.work.startsWith('bare_')) await createBareTables(direct, list.length + 19)
  const reserve = scenario.isQueued
    ? createReserveQueue(db)
    : (input: Parameters<typeof reserveJob>[1]) => reserveJob(db, input)
  await Promise.all(
    Array.from({ length: scenario.connections }, () => db.sql`select pg_sleep(0.05)`),
  )

  const serverPids = (
    await db.sql<{ pid: number }[]>`
      select pid from pg_stat_activity where datname = current_database() and backend_type = 'client backend'`
  ).map(({ pid }) => pid)
  let turn = 0
  const call = async () => {
    const index = turn++ % list.length
    const tenant = list[index]
    if (!tenant) return
    if (scenario.work === 'bare_hold') return await holdBare(db, 20 + index, 1 + (index % 19))
    if (scenario.work === 'bare_life') return await buyBare(db, index)
    const result = await reserve({ job: newJob(tenant), price: LIST_PRICE })
    if (!result.ok) throw new Error(result.reason)
    if (scenario.work === 'reserve') return
    const { jobId } = result
    await claimJob(db, { jobId, workerId: 'bench', leaseSeconds: 60, maxFailedAttempts: 3 })
    await deliver(db, jobId, 1)
    await settleJob(db, { jobId, attempt: 1, outcome: 'succeeded' })
  }
  const runFor = async (runSeconds: number, times: number[]) => {
    const endsAt = performance.now() + runSeconds * 1000
    const caller = async () => {
      while (performance.now() < endsAt) {
        const calledAt = performance.now()
        await call()
        times.push(performance.now() - calledAt)
      }
    }
    await Promise.all(Array.from({ length: scenario.callers }, caller))
  }
  // A writer of an org would need one connection at a time for this.
  for (const tenant of [list[0], list[0]]) {
    if (!tenant || scenario.work.startsWith('bare_')) continue
    const each = () => reserveJob(db, { job: newJob(tenant), price: LIST_PRICE })
    await Promise.all(Array.from({ length: scenario.connections }, each))
  }
  await runFor(WARM_UP_SECONDS, [])
  const serverMsBefore = own ? null : cpuMsOf(serverPids)
  const clientBefore = process.cpuUsage()
  const times: number[] = []
  const startedAt = performance.now()
  await runFor(seconds, times)
  const tookSeconds = (performance.now() - startedAt) / 1000
  const client = process.cpuUsage(clientBefore)
  const serverMs = serverMsBefore === null ? null : cpuMsOf(serverPids) - serverMsBefore
  await direct.sql`analyze`
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
  for (const scenario of SCENARIOS) {
    if (only === undefined || only.includes(scenario.name))
      results.push(await measure(url, scenario))
  }
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
    verdicts: results.flatMap(({ name, perSecond, goalPerSecond, goalOf }) => {
      const of = results.find((result) => result.name === goalOf?.name)
      const goal = of ? Math.round(of.perSecond * (goalOf?.share ?? 1)) : null
      return [
        ...(goalPerSecond === null
          ? []
          : [{ name, perSecond, goal: goalPerSecond, isMet: perSecond >= goalPerSecond }]),
        ...(goal === null || of === undefined
          ? []
          : [{ name, perSecond, goal, goalFrom: of.name, isMet: perSecond >= goal }]),
      ]
    }),
    results,
  }
  const text = `${JSON.stringify(report, null, 2)}\n`
  if (values.out !== undefined) await writeFile(values.out, text)
  console.log(text)
} finally {
  await server?.stop()
  await rm(folder, { recursive: true, force: true })
}
