import type { ChildProcess } from 'node:child_process'
import { createHash } from 'node:crypto'
import { chmod, mkdir, mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import { closeDatabase, openDatabase } from '../../db/client.ts'
import type { Db } from '../../db/client.ts'
import { migrateDatabase } from '../../db/migrate-cli.ts'
import { findFreePort, startPostgres } from '../../infra/local/postgres.ts'
import type { LocalPostgres } from '../../infra/local/postgres.ts'
import { checkBooks } from '../support/books.ts'
import { TEST_PEPPER } from '../support/pepper.ts'
import { startQueue } from '../support/queue.ts'
import { createTenant } from '../support/tenant.ts'
import { killAll, spawnScript } from '../support/worker.ts'
import type { TestProcess } from '../support/worker.ts'
import { createFaultLedger } from './fault-ledger.ts'
import { createRandom } from './random.ts'
import type { WorldsResult } from './run-worlds.ts'

const GATEWAYS = 2
const WORKERS = 2
const CLIENTS = 4
/** A caller gives up long before; here it insists, so that every order has an answer in the end. */
const PATIENCE_MS = 120_000
const DRAIN_MS = 120_000
const UNIT_MICROS = 15_000n

/** One order of the outside, under a key of its own, and what it heard. */
interface KilledOrder {
  key: string
  n: number
  jobIds: Set<string>
}

/**
 * Kills real gateways (with their sweeps), workers and PostgreSQL by SIGKILL at random moments while callers order
 * pictures, and then compares orders, files and books. Unlike the worlds this server keeps what it has confirmed:
 * fsync and synchronous commit are on.
 */
export async function runKills(input: { kills: number; seed: number }): Promise<WorldsResult> {
  const random = createRandom(input.seed, 'kills')
  const ledger = createFaultLedger()
  const floor = await openKillFloor()
  const { db } = floor
  const orders: KilledOrder[] = []
  const broken: string[] = []
  let isOver = false
  try {
    const tenant = await createTenant(db, { org: { maxInflight: 10_000 } })
    await floor.untilUp()
    const clients = Array.from({ length: CLIENTS }, async (_, client) => {
      for (let count = 0; !isOver; count++) {
        const n = 1 + random.int(2)
        const order: KilledOrder = { key: `${client}-${count}`, n, jobIds: new Set() }
        orders.push(order)
        await placeOrder(floor.urls, tenant.apiKey, order, broken)
        await wait(random.int(100))
      }
    })
    for (let kill = 0; kill < input.kills; kill++) {
      await wait(100 + random.int(500))
      const victim = await floor.pickVictim(random.next())
      ledger.note(`${victim.name} process`, 'SIGKILL')
      victim.kill()
    }
    isOver = true
    await Promise.all(clients)
    broken.push(...(await untilEnded(floor)))
    broken.push(...(await compare(floor, orders)), ...(await checkBooks(db)))
  } finally {
    isOver = true
    await floor.close()
  }
  const failures = broken.length > 0 ? [{ seed: input.seed, orders: 0, images: 0, broken }] : []
  const images = orders.reduce((sum, { n }) => sum + n, 0)
  return { ledger, runs: 1, orders: orders.length, images, failures }
}

/** Asks one gateway after the other under the same key until one answers. */
async function placeOrder(
  urls: readonly string[],
  apiKey: string,
  order: KilledOrder,
  broken: string[],
): Promise<void> {
  const endMs = performance.now() + PATIENCE_MS
  for (let turn = 0; performance.now() < endMs; turn++) {
    try {
      const response = await fetch(`${urls[turn % urls.length]}/v1/jobs`, {
        method: 'POST',
        headers: {
          authorization: `Bearer ${apiKey}`,
          'content-type': 'application/json',
          'idempotency-key': order.key,
        },
        body: JSON.stringify({ model: 'glm-image', prompt: 'A sign', n: order.n, size: '256x256' }),
        signal: AbortSignal.timeout(20_000),
      })
      const body = (await response.json()) as { id?: string; error?: { code?: string } }
      if (response.status < 300 && body.id !== undefined) {
        order.jobIds.add(body.id)
        // Now and then the caller asks once more, as one does who restarts itself.
        if (turn > 0 || order.jobIds.size > 1 || !order.key.endsWith('3')) return
        continue
      }
      if (response.status < 500 && response.status !== 429) {
        broken.push(`an order was refused: ${response.status} ${JSON.stringify(body)}`)
        return
      }
    } catch {
      // Nobody listens there, or the connection broke: the same again.
    }
    await wait(100)
  }
  broken.push(`order ${order.key} had no answer in ${PATIENCE_MS} ms`)
}

type KillFloor = Awaited<ReturnType<typeof openKillFloor>>

interface Victim {
  name: 'gateway' | 'worker' | 'PostgreSQL'
  kill(): void
}

async function openKillFloor() {
  const folder = await mkdtemp(join(tmpdir(), 'glyphpress-kills-'))
  await chmod(folder, 0o755)
  const objectDir = join(folder, 'objects')
  await mkdir(objectDir)
  const port = await findFreePort()
  let child: ChildProcess | null = null
  let isClosing = false
  const startServer = () =>
    startPostgres({
      dataDir: join(folder, 'pg'),
      password: 'test',
      port,
      onSpawn: (spawned) => void (child = spawned),
    })
  let server: LocalPostgres = await startServer()
  let isServerUp = true
  const { url } = server
  await migrateDatabase(url)
  const queue = await startQueue()
  const db = openDatabase(url, { maxConnections: 2 })
  const shared = { ...queue.env, DATABASE_URL: url, OBJECT_DIR: objectDir }
  const ports = await Promise.all(Array.from({ length: GATEWAYS }, () => findFreePort()))
  const urls = ports.map((one) => `http://127.0.0.1:${one}`)
  const dead: string[] = []
  const up = new Map<string, { name: Victim['name']; process: TestProcess }>()

  /** One process after the other in this place. */
  const keepSlot = async (name: 'gateway' | 'worker', slot: number) => {
    for (let life = 0; !isClosing; life++) {
      const workerId = `worker-${slot}-${life}`
      const started =
        name === 'gateway'
          ? spawnScript('edge/node.ts', {
              env: {
                ...shared,
                KEY_PEPPER: TEST_PEPPER,
                PUBLIC_URL: 'https://images.example',
                PORT: String(ports[slot]),
              },
            })
          : spawnScript('test/simulation/worker-process.ts', {
              env: { ...shared, MODEL_DIR: folder, WORKER_ID: workerId },
            })
      let isEnded = false
      void started.ended.then(() => (isEnded = true))
      const word = name === 'gateway' ? 'listening' : 'ready'
      while (!isEnded && !isClosing) {
        if (started.log.some(({ event }) => event === word)) {
          up.set(`${name} ${slot}`, { name, process: started })
          break
        }
        await wait(20)
      }
      await started.ended
      up.delete(`${name} ${slot}`)
      if (name === 'worker') dead.push(workerId)
      await wait(50)
    }
  }
  const slots = [
    ...Array.from({ length: GATEWAYS }, (_, slot) => keepSlot('gateway', slot)),
    ...Array.from({ length: WORKERS }, (_, slot) => keepSlot('worker', slot)),
  ]
  const keepServer = async () => {
    while (!isClosing) {
      await server.ended
      isServerUp = false
      if (isClosing) return
      server = await startServer()
      isServerUp = true
    }
  }
  const serverSlot = keepServer()
  return {
    db,
    urls,
    objectDir,
    async untilUp() {
      while (up.size < GATEWAYS + WORKERS) await wait(50)
    },
    /** Somebody who is at work; at first a gateway or a worker, now and then the server under them. */
    async pickVictim(draw: number): Promise<Victim> {
      for (;;) {
        if (draw < 0.15 && isServerUp && child) {
          const victim = child
          isServerUp = false
          return { name: 'PostgreSQL', kill: () => void victim.kill('SIGKILL') }
        }
        const list = [...up]
        const [key, found] = list[Math.floor(draw * list.length)] ?? []
        if (key !== undefined && found) {
          up.delete(key)
          return { name: found.name, kill: () => found.process.kill('SIGKILL') }
        }
        await wait(20)
      }
    },
    /** What the passing of a minute does for those that were killed. */
    async letTimePass(): Promise<void> {
      await db.sql`
        update job set lease_until = now() - interval '1 second'
         where state = 'running' and worker_id = any(${dead})`
      await db.sql`
        update outbox set available_at = now() - interval '1 minute' where done_at is null`
      await queue.expireVisibility()
    },
    async close(): Promise<void> {
      isClosing = true
      await killAll()
      await Promise.all(slots)
      await closeDatabase(db, { timeoutSeconds: 0 })
      await server.stop()
      await serverSlot
      await queue.close()
      await rm(folder, { recursive: true, force: true })
    },
  }
}

async function untilEnded(floor: KillFloor): Promise<string[]> {
  const endMs = performance.now() + DRAIN_MS
  for (let look = 0; performance.now() < endMs; look++) {
    try {
      // A look a second: whoever lives has its minute.
      if (look % 5 === 0) await floor.letTimePass()
      const [row] = await floor.db.sql<{ count: bigint }[]>`
        select count(*) from job where finished_at is null`
      if (row?.count === 0n) return []
    } catch {
      // The server may still be coming up.
    }
    await wait(200)
  }
  return ['never came to an end: jobs are unfinished after all kills']
}

/** Orders that were answered, jobs that exist, files that lie in the store, and what was charged. */
async function compare(
  { db, objectDir }: { db: Db; objectDir: string },
  orders: readonly KilledOrder[],
): Promise<string[]> {
  const broken: string[] = []
  const jobs = await db.sql<
    { id: string; key: string | null; n: number; state: string; charged: bigint }[]
  >`
    select id, idempotency_key as key, n, state,
           (select coalesce(sum(net_micros), 0)::bigint from usage_event u where u.job_id = job.id) as charged
      from job`
  const outputs = await db.sql<{ jobId: string; key: string; sha256: string }[]>`
    select job_id as "jobId", object_key as key, sha256 from job_output`
  for (const order of orders) {
    const made = jobs.filter(({ key }) => key === order.key)
    if (made.length > 1) broken.push(`doubled: order ${order.key} became ${made.length} jobs`)
    for (const jobId of order.jobIds) {
      if (!made.some(({ id }) => id === jobId))
        broken.push(`lost: job ${jobId} was accepted and is not there`)
    }
    if (order.jobIds.size > 1) broken.push(`doubled: order ${order.key} has two answers`)
    if (made.some(({ n }) => n !== order.n)) broken.push(`order ${order.key} has another number`)
  }
  const known = new Set(orders.map(({ key }) => key))
  for (const { id, state, charged, key } of jobs) {
    if (key === null || !known.has(key)) broken.push(`job ${id} was never asked for`)
    const mine = outputs.filter(({ jobId }) => jobId === id)
    const due = UNIT_MICROS * BigInt(mine.length)
    if (charged > due)
      broken.push(`doubled: job ${id} (${state}) is charged ${charged}, not ${due}`)
    if (charged < due) broken.push(`lost: job ${id} (${state}) is charged ${charged}, not ${due}`)
  }
  for (const { jobId, key, sha256 } of outputs) {
    const bytes = await readFile(join(objectDir, key)).catch(() => null)
    const is = bytes === null ? null : createHash('sha256').update(bytes).digest('hex')
    if (is !== sha256) broken.push(`lost: a picture of job ${jobId} is not in the store`)
  }
  return broken
}
