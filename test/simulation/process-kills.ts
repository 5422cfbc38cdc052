import type { ChildProcess } from 'node:child_process'
import { chmod, mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import { closeDatabase, openDatabase } from '../../db/client.ts'
import { migrateDatabase } from '../../db/migrate-cli.ts'
import { findFreePort, startPostgres } from '../../infra/local/postgres.ts'
import type { LocalPostgres } from '../../infra/local/postgres.ts'
import { checkBooks } from '../support/books.ts'
import { SPOT_NOTICE, startMetadataServer } from '../support/metadata-server.ts'
import { TEST_PEPPER } from '../support/pepper.ts'
import { startQueue } from '../support/queue.ts'
import { createTenant } from '../support/tenant.ts'
import { killAll, spawnScript } from '../support/worker.ts'
import type { TestProcess } from '../support/worker.ts'
import { compareOrders } from './compare-orders.ts'
import type { PlacedOrder } from './compare-orders.ts'
import { createFaultLedger } from './fault-ledger.ts'
import { createRandom } from './random.ts'
import type { Random } from './random.ts'
import type { WorldsResult } from './run-worlds.ts'

const GATEWAYS = 2
const WORKERS = 2
const SWEEPS = 1
const CLIENTS = 4
/** A caller gives up long before; here it insists, through all kills, so that every order has an answer in the end. */
const PATIENCE_MS = 900_000
/** Whoever came up just now is left alone for so long: on a busy machine nobody would ever be at work. */
const AT_WORK_MS = 500
const DRAIN_MS = 120_000
/** A machine is gone two minutes after its notice. */
const LEAVE_MS = 60_000
/** Of a worker's ends, which of them are announced. */
const SPOT_SHARE = 0.4
/** What says that a worker has left its machine on purpose, so that it is not started again there. */
const LEFT_EXIT_CODE = 75
/** Where a machine reads that it is taken away. */
const SPOT_PATH = 'spot/instance-action'

/**
 * Kills real gateways, workers, a sweep and PostgreSQL by SIGKILL at random moments, ends connections under their
 * statements and takes machines away from workers by a spot notice, while callers order pictures; then compares orders,
 * files and books. Unlike the worlds this server keeps what it has confirmed: fsync and synchronous commit are on.
 */
export async function runKills(input: { kills: number; seed: number }): Promise<WorldsResult> {
  const random = createRandom(input.seed, 'kills')
  const ledger = createFaultLedger()
  const floor = await openKillFloor()
  const { db } = floor
  const orders: PlacedOrder[] = []
  const broken: string[] = []
  let isOver = false
  try {
    const tenant = await createTenant(db, { org: { maxInflight: 10_000 } })
    await floor.untilUp()
    const clients = Array.from({ length: CLIENTS }, async (_, client) => {
      for (let count = 0; !isOver; count++) {
        const n = 1 + random.int(2)
        const order: PlacedOrder = { key: `${client}-${count}`, n, jobIds: new Set() }
        orders.push(order)
        await placeOrder(floor.urls, tenant.apiKey, order, broken)
        await wait(random.int(100))
      }
    })
    for (let kill = 0; kill < input.kills; kill++) {
      await wait(100 + random.int(500))
      const { point, kind, strike } = await floor.pickVictim(random)
      ledger.note(point, kind)
      await strike()
    }
    isOver = true
    await Promise.all(clients)
    await floor.untilLeft()
    broken.push(...(await untilEnded(floor)), ...floor.stayed)
    broken.push(...(await compareOrders(floor, orders)), ...(await checkBooks(db)))
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
  order: PlacedOrder,
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

type PartName = 'gateway' | 'worker' | 'sweep'

interface Running {
  name: PartName
  slot: number
  process: TestProcess
  sinceMs: number
}

/** What happens next, and to whom; for the ledger. */
interface Victim {
  point: string
  kind: 'SIGKILL' | 'spot notice' | 'terminated'
  strike: () => void | Promise<void>
}

/** The word of its log by which each says that it is at work. */
const READY: Readonly<Record<PartName, string>> = {
  gateway: 'listening',
  worker: 'ready',
  sweep: 'sweeping',
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
  const machines = await Promise.all(Array.from({ length: WORKERS }, () => startMetadataServer()))
  const dead: string[] = []
  /** Sentences about workers that were told of their machine's end and did not leave it in time. */
  const stayed: string[] = []
  const leaving: Promise<void>[] = []
  const up = new Map<string, Running>()
  const gatewayEnv = { ...shared, KEY_PEPPER: TEST_PEPPER, PUBLIC_URL: 'https://images.example' }
  const start = (name: PartName, slot: number, workerId: string): TestProcess => {
    switch (name) {
      case 'gateway':
        // What it cannot send at once is left to the sweep beside it.
        return spawnScript('edge/node.ts', {
          env: { ...gatewayEnv, PORT: String(ports[slot]), SWEEP: '0' },
        })
      case 'sweep':
        return spawnScript('edge/node/sweep-cli.ts', { env: gatewayEnv })
      case 'worker': {
        const machine = { IMDS: machines[slot]?.url ?? '', WORKER_ID: workerId }
        return spawnScript('test/simulation/worker-process.ts', {
          env: { ...shared, MODEL_DIR: folder, ...machine },
        })
      }
    }
  }

  /** One process after the other in this place. */
  const keepSlot = async (name: PartName, slot: number) => {
    for (let life = 0; !isClosing; life++) {
      const workerId = `worker-${slot}-${life}`
      if (name === 'worker') machines[slot]?.remove(SPOT_PATH)
      const started = start(name, slot, workerId)
      let isEnded = false
      void started.ended.then(() => (isEnded = true))
      while (!isEnded && !isClosing) {
        if (started.log.some(({ event }) => event === READY[name])) {
          up.set(`${name} ${slot}`, { name, slot, process: started, sinceMs: performance.now() })
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
  const keepSlots = (name: PartName, count: number) =>
    Array.from({ length: count }, (_, slot) => keepSlot(name, slot))
  const slots = [
    ...keepSlots('gateway', GATEWAYS),
    ...keepSlots('worker', WORKERS),
    ...keepSlots('sweep', SWEEPS),
  ]
  /** The worker has to be gone, by itself and with the code that says so, before its machine would be. */
  const takeMachine = async (slot: number, worker: TestProcess) => {
    machines[slot]?.set(SPOT_PATH, SPOT_NOTICE)
    const late = new AbortController()
    const end = await Promise.race([
      worker.ended,
      wait(LEAVE_MS, null, { signal: late.signal }).catch(() => null),
    ])
    late.abort()
    if (isClosing || end?.code === LEFT_EXIT_CODE) return
    stayed.push(`a worker did not leave its machine: ${JSON.stringify(end)}`)
    worker.kill('SIGKILL')
  }
  /** Half of the connections of gateways, workers and sweep, whatever they are doing. */
  const endConnections = async () => {
    await db.sql`
      select pg_terminate_backend(pid) from pg_stat_activity
       where application_name like 'glyphpress%' and pid <> pg_backend_pid() and random() < 0.5`
  }
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
    stayed,
    async untilUp() {
      while (up.size < GATEWAYS + WORKERS + SWEEPS) await wait(50)
    },
    /** Somebody who is at work; now and then the server under all of them, or connections to it. */
    async pickVictim(random: Random): Promise<Victim> {
      const draw = random.next()
      for (;;) {
        if (draw < 0.12 && isServerUp && child) {
          const victim = child
          isServerUp = false
          const strike = () => void victim.kill('SIGKILL')
          return { point: 'PostgreSQL process', kind: 'SIGKILL', strike }
        }
        if (draw >= 0.12 && draw < 0.25 && isServerUp)
          return {
            point: 'database connections',
            kind: 'terminated',
            // The server may have ended meanwhile, and all connections with it.
            strike: () => endConnections().catch(() => {}),
          }
        const now = performance.now()
        const list = [...up].filter(([, { sinceMs }]) => now - sinceMs > AT_WORK_MS)
        const [key, found] = list[Math.floor(draw * list.length)] ?? []
        if (key !== undefined && found) {
          up.delete(key)
          const { name, slot, process } = found
          if (name === 'worker' && random.next() < SPOT_SHARE) {
            const strike = () => void leaving.push(takeMachine(slot, process))
            return { point: 'worker process', kind: 'spot notice', strike }
          }
          const strike = () => process.kill('SIGKILL')
          return { point: `${name} process`, kind: 'SIGKILL', strike }
        }
        await wait(20)
      }
    },
    /** Until those have left that were told to. */
    async untilLeft(): Promise<void> {
      await Promise.all(leaving)
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
      await Promise.all([...slots, ...leaving])
      await Promise.all(machines.map((machine) => machine.close()))
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
