import { setTimeout as wait } from 'node:timers/promises'
import { processMeterEvents } from '../support/fake-stripe/metering.ts'
import { grant, runOperator, runSweeper } from './back-office.ts'
import { runClients } from './clients.ts'
import { describeOpen, whatIsOpen } from './drain.ts'
import { endMonth } from './month-end.ts'
import { checkAll } from './oracle.ts'
import { passTime } from './passing-time.ts'
import { runBuyer, runPostman } from './payments.ts'
import { startSampling } from './sampling.ts'
import { runWorkers } from './workers.ts'
import type { World } from './world.ts'

const WORKERS = 10
const SWEEPERS = 2
/** The last jobs of a storm may wait for a minute of bad luck; the quiet time brings them to an end too. */
const STORM_MS = 10_000
/** Without faults everything is done in ten sweeps or so. Sweeps and not seconds, as a busy machine takes its time. */
const DRAIN_SWEEPS = 400
const MINUTES_PER_SWEEP = 20
/** The first of them may have begun before the last change. */
const IDLE_SWEEPS = 3

export interface SimulationResult {
  readonly seed: number
  readonly orders: number
  readonly images: number
  /** Sentences; empty = nothing was lost and nothing doubled. */
  readonly broken: readonly string[]
}

/** One run: a storm of orders and faults, a quiet time in which all must come to an end, a month's end, the oracle. */
export async function simulate(
  world: World,
  options: { ordersPerTenant: number },
): Promise<SimulationResult> {
  const { journal } = world
  let isOver = false
  let isStormOver = false
  const dead = new Set<string>()
  const background = [
    ...Array.from({ length: WORKERS }, (_, slot) =>
      runWorkers(world, { slot, dead, isOver: () => isOver }),
    ),
    ...Array.from({ length: SWEEPERS }, (_, slot) =>
      runSweeper(world, { slot, isOver: () => isOver }),
    ),
    passTime(world, { dead, isOver: () => isOver }),
    runPostman(world, () => isOver),
  ]
  const sampling = startSampling(world)
  const [prepaid] = world.tenants
  if (prepaid) {
    const images = 60n
    const sourceId = `${prepaid.orgId}:opening`
    await grant(world, prepaid, { sourceId, images, isPromo: false, expiresAt: null })
  }
  world.setQuiet(false)
  const busy = [
    runOperator(world, () => isStormOver),
    ...(prepaid ? [runBuyer(world, prepaid, () => isStormOver)] : []),
  ]
  await Promise.all(
    world.tenants.map((tenant) => runClients(world, tenant, options.ordersPerTenant)),
  )
  await untilJobsEnded(world)
  isStormOver = true
  await Promise.all(busy)
  world.setQuiet(true)
  await untilDrained(world)
  // What is broken by now needs no month to show.
  if (journal.broken.length === 0) {
    await endMonth(world)
    world.setQuiet(true)
    await untilDrained(world)
  }
  isOver = true
  await Promise.all([...background, sampling.stop()])
  const broken = [...journal.broken]
  if (broken.length === 0) {
    const open = await whatIsOpen(world)
    if (open.length > 0) open.push(...(await describeOpen(world)))
    broken.push(...open.map((one) => `never came to an end: ${one}`))
  }
  broken.push(...(await checkAll(world)))
  const images = world.pictures.size
  return { seed: world.seed, orders: journal.orders.length, images, broken }
}

/** Until no job is under way, whatever else is. */
async function untilJobsEnded(world: World): Promise<void> {
  const endMs = performance.now() + STORM_MS
  while (performance.now() < endMs && world.journal.broken.length === 0) {
    const open = await whatIsOpen(world)
    if (!open.some((one) => one.includes('jobs'))) return
    await wait(400)
  }
}

/** Until nothing is open any more and some whole sweeps have found nothing to do. */
async function untilDrained(world: World): Promise<void> {
  const last = world.quietSweeps + DRAIN_SWEEPS
  let idleSince = Infinity
  let sweeps = world.quietSweeps
  while (world.quietSweeps < last && world.journal.broken.length === 0) {
    const open = await whatIsOpen(world)
    if (open.length > 0) idleSince = Infinity
    else if (idleSince === Infinity) idleSince = world.quietSweeps
    else if (world.quietSweeps >= idleSince + IDLE_SWEEPS) return
    // Stripe's own hours have to pass before it is told and asked, and not faster than somebody can do so.
    for (; sweeps < world.quietSweeps; sweeps++) {
      processMeterEvents(world.fake.state)
      world.fake.advance(MINUTES_PER_SWEEP * 60_000)
    }
    await wait(60)
  }
}
