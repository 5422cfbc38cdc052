import { cp, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import { compareBooks } from '../../billing/reconcile/books.ts'
import type { Db } from '../../db/client.ts'
import { checkBooks } from '../support/books.ts'
import { TEST_PEPPER } from '../support/pepper.ts'
import { startReceiver } from '../support/receiver.ts'
import type { WebhookReceiver } from '../support/receiver.ts'
import { findPart, openStack } from '../support/stack.ts'
import type { Stack, Started } from '../support/stack.ts'
import { createTenant } from '../support/tenant.ts'
import { compareOrders } from './compare-orders.ts'
import { createRandom } from './random.ts'
import { startLoad } from './soak-load.ts'
import type { SoakLoad, SoakOrder } from './soak-load.ts'
import { watchMemory } from './soak-memory.ts'
import type { MemoryOfPart } from './soak-memory.ts'

export interface SoakResult {
  minutes: number
  orders: number
  pictures: number
  /** Jobs by how they ended. */
  states: Record<string, number>
  chargedUsd: string
  webhooks: { due: number; delivered: number }
  kills: Record<string, number>
  /** Calls that were made again because nobody answered. */
  repeats: number
  calls: Record<string, number>
  latencies: Latencies[]
  memory: MemoryOfPart[]
  /** Sentences; empty = nothing was lost, nothing doubled. */
  broken: string[]
}

interface Latencies {
  what: string
  count: number
  p50Ms: number
  p95Ms: number
}

const TENANTS = 3
/** Between two kills of one run. A part that dies sooner than this after its start is held to be sick by the launcher. */
const KILL_MS = { least: 20_000, more: 20_000 }
const REST_MS = 35_000
/** After the last order: the lease of a killed worker, a pause, another try; webhooks have their second attempt. */
const DRAIN_MS = 300_000
/** Every so many deliveries the receiver fails once. */
const FAILING = 20
const TINY = { steps: 4, sizes: ['256x256', '64x64'] }

/**
 * The whole of `npm start` under mixed load: first with its gateway and its worker killed at random, then, for the
 * later half, left alone, so that the memory of long-lived processes can be told. Ends with all jobs over and the books
 * compared.
 *
 * @param input.modelDir a checkpoint that draws quickly; it is copied and offered in small sizes
 */
export async function soak(input: {
  minutes: number
  seed: number
  modelDir: string
  say: (text: string) => void
}): Promise<SoakResult> {
  const stack = await openStack()
  const receiver = await startReceiver()
  failNowAndThen(receiver)
  try {
    const modelDir = await offerSmall(input.modelDir)
    const started = await stack.start(['--model', modelDir], {
      KEY_PEPPER: TEST_PEPPER,
      WEBHOOK_ALLOW_LOOPBACK: '1',
    })
    const result = await stack.withDatabase((db) => run(input, { stack, started, receiver, db }))
    await rm(modelDir, { recursive: true })
    return result
  } finally {
    await receiver.close()
    await stack.close()
  }
}

interface Floor {
  stack: Stack
  started: Started
  receiver: WebhookReceiver
  db: Db
}

async function run(
  { minutes, seed, say }: Parameters<typeof soak>[0],
  { stack, started, receiver, db }: Floor,
): Promise<SoakResult> {
  const startMs = performance.now()
  const quietAtMs = (minutes * 60_000) / 2
  const isQuiet = () => performance.now() - startMs > quietAtMs
  const tenants = []
  for (let index = 0; index < TENANTS; index++)
    tenants.push(await createTenant(db, { org: { maxInflight: 10_000 } }))
  const memory = watchMemory(started.child.pid ?? 0, quietAtMs)
  const load = await startLoad({
    origin: `http://127.0.0.1:${stack.port}`,
    tenants,
    webhookUrl: receiver.url,
    seed,
    isQuiet,
  })
  const killing = killParts({ seed, started, isQuiet })
  while (performance.now() - startMs < minutes * 60_000) {
    await wait(Math.min(60_000, minutes * 15_000))
    const passed = Math.round((performance.now() - startMs) / 6_000) / 10
    say(`${passed} min: ${load.orders.length} orders, ${load.broken.length} findings`)
  }
  const overdrawn = await countConnections(db)
  await load.stop()
  const kills = await killing
  const ran = (performance.now() - startMs) / 60_000
  const measured = await memory.stop()
  const broken = [...load.broken, ...overdrawn, ...(await untilOver(db))]
  broken.push(...(await compareOrders({ db, objectDir: objectsOf(stack) }, load.orders)))
  broken.push(...(await checkBooks(db)))
  const { differences } = await compareBooks(db, { graceSeconds: 0 })
  broken.push(...differences.map((one) => `books: ${JSON.stringify(one)}`))
  const webhooks = await compareWebhooks(db, receiver, load.orders)
  broken.push(...webhooks.broken)
  broken.push(
    ...measured
      .filter(({ isFlat }) => isFlat === false)
      .map(({ part, growth }) => `memory of the ${part} grew by ${Math.round(growth * 100)} %`),
  )
  return {
    minutes: Math.round(ran * 10) / 10,
    orders: load.orders.length,
    ...(await totalsOf(db)),
    webhooks: webhooks.counts,
    kills,
    repeats: load.repeats(),
    calls: load.calls,
    latencies: latenciesOf(load),
    memory: measured,
    broken,
  }
}

/** The same weights, offered in sizes that take a fraction of a second. */
async function offerSmall(modelDir: string): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'glyphpress-soak-'))
  await cp(modelDir, folder, { recursive: true })
  const [usual, ...others] = TINY.sizes
  const offer = {
    model: 'glm-image',
    size: {
      default: usual,
      recommended: [usual, ...others],
      min_side: 64,
      max_side: 512,
      multiple_of: 32,
      max_pixels: 262_144,
    },
    steps: TINY.steps,
    guidance_scale: 1.5,
  }
  await writeFile(join(folder, 'serving.json'), JSON.stringify(offer))
  return folder
}

const objectsOf = (stack: Stack) => join(stack.stateDir, 'objects')

/** Fails some deliveries, each at its first attempt. */
function failNowAndThen(receiver: WebhookReceiver): void {
  const seen = new Set<string>()
  receiver.answer = (request, response) => {
    const id = String(request.headers['webhook-id'])
    const isBad = !seen.has(id) && seen.size % FAILING === 0
    seen.add(id)
    response.writeHead(isBad ? 500 : 200).end()
  }
}

/** Kills one part after the other until it is quiet; resolves then. The launcher starts it again. */
async function killParts(input: {
  seed: number
  started: Started
  isQuiet: () => boolean
}): Promise<Record<string, number>> {
  const random = createRandom(input.seed, 'kills')
  const scripts = { gateway: 'edge/node.ts', worker: 'gpu-worker/main.ts' } as const
  const kills = { gateway: 0, worker: 0 }
  const lastMs = { gateway: -Infinity, worker: -Infinity }
  for (;;) {
    await wait(KILL_MS.least + random.int(KILL_MS.more))
    if (input.isQuiet()) return kills
    const now = performance.now()
    const rested = (['gateway', 'worker'] as const).filter((part) => now - lastMs[part] > REST_MS)
    const part = rested[random.int(Math.max(1, rested.length))]
    if (part === undefined) continue
    const pid = await findPart(input.started.child, scripts[part])
    // It is just being started.
    if (!Number.isInteger(pid)) continue
    process.kill(pid, 'SIGKILL')
    kills[part] += 1
    lastMs[part] = now
  }
}

/** How many connections each part may have open: what the pools of gateway, worker and launcher are bounded by. */
const CONNECTIONS: Readonly<Record<string, number>> = {
  'glyphpress-gateway': 16,
  'glyphpress-worker': 4,
  'glyphpress-start': 2,
}

/** Amid the load, with nobody killed for a while: says which part has more connections open than its pool may. */
async function countConnections(db: Db): Promise<string[]> {
  const rows = await db.sql<{ part: string; count: number }[]>`
    select application_name as part, count(*)::int from pg_stat_activity
     where application_name like 'glyphpress-%' group by application_name`
  return rows
    .filter(({ part, count }) => count > (CONNECTIONS[part] ?? 0))
    .map(({ part, count }) => `${part} has ${count} connections open`)
}

/** Until no job is under way and no webhook is due. */
async function untilOver(db: Db): Promise<string[]> {
  const endMs = performance.now() + DRAIN_MS
  let open = ''
  while (performance.now() < endMs) {
    const [row] = await db.sql<{ jobs: number; deliveries: number; messages: number }[]>`
      select (select count(*)::int from job where finished_at is null) as jobs,
             (select count(*)::int from webhook_delivery where state = 'pending') as deliveries,
             (select count(*)::int from outbox where done_at is null) as messages`
    if (row && row.jobs + row.deliveries + row.messages === 0) return []
    open = JSON.stringify(row)
    await wait(1_000)
  }
  return [`never came to an end: ${open}`]
}

async function totalsOf(db: Db): Promise<Pick<SoakResult, 'pictures' | 'states' | 'chargedUsd'>> {
  const rows = await db.sql<{ state: string; count: number }[]>`
    select state, count(*)::int from job group by state order by state`
  const [sum] = await db.sql<{ pictures: number; usd: string }[]>`
    select (select count(*)::int from job_output) as pictures,
           coalesce(sum(net_micros) / 1e6, 0)::numeric(20, 3)::text as usd from usage_event`
  const states = Object.fromEntries(rows.map(({ state, count }) => [state, count]))
  return { pictures: sum?.pictures ?? 0, states, chargedUsd: sum?.usd ?? '0' }
}

/** Whoever wanted to hear of its job has heard; of a job that was deleted the log knows nothing any more. */
async function compareWebhooks(
  db: Db,
  receiver: WebhookReceiver,
  orders: readonly SoakOrder[],
): Promise<{ counts: SoakResult['webhooks']; broken: string[] }> {
  const told = new Set(
    receiver.received.map(
      ({ body }) => (JSON.parse(body) as { data?: { job_id?: string } }).data?.job_id,
    ),
  )
  const deleted = new Set(
    (await db.sql<{ id: string }[]>`select id from job where deleted_at is not null`).map(
      ({ id }) => id,
    ),
  )
  const due = orders
    .filter(({ hasWebhook }) => hasWebhook)
    .flatMap(({ jobIds }) => [...jobIds])
    .filter((jobId) => !deleted.has(jobId))
  const missing = due.filter((jobId) => !told.has(jobId))
  return {
    counts: { due: due.length, delivered: due.length - missing.length },
    broken: missing.map((jobId) => `lost: nobody was told of job ${jobId}`),
  }
}

function latenciesOf({ orders, readMs }: SoakLoad): Latencies[] {
  const done = orders.filter(({ latencyMs }) => latencyMs !== null)
  const rows: Latencies[] = []
  for (const dialect of ['native', 'openai', 'zai', 'zai-async', 'edit'] as const) {
    const own = done.filter((order) => order.dialect === dialect)
    const timesOf = (list: readonly SoakOrder[]) => list.map(({ latencyMs }) => latencyMs ?? 0)
    rows.push(toLatencies(`${dialect}, with kills`, timesOf(own.filter((one) => !one.isQuiet))))
    rows.push(toLatencies(`${dialect}, without`, timesOf(own.filter((one) => one.isQuiet))))
  }
  rows.push(toLatencies('reads', readMs))
  return rows.filter(({ count }) => count > 0)
}

function toLatencies(what: string, times: readonly number[]): Latencies {
  const sorted = times.toSorted((a, b) => a - b)
  const at = (share: number) =>
    Math.round(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0)
  return { what, count: times.length, p50Ms: at(0.5), p95Ms: at(0.95) }
}
