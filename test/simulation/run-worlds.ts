import { closeDatabase, openDatabase } from '../../db/client.ts'
import { cloneDatabase, openTemplateDatabase, urlOf } from '../support/template-database.ts'
import type { TemplateDatabase } from '../support/template-database.ts'
import type { Bug } from './bugs.ts'
import { textOf } from './expected-errors.ts'
import { createFaultLedger } from './fault-ledger.ts'
import type { FaultLedger } from './fault-ledger.ts'
import { insertPrices } from './simulation-prices.ts'
import { simulate } from './simulate.ts'
import type { SimulationResult } from './simulate.ts'
import { openWorld } from './world.ts'

export interface WorldsResult {
  readonly ledger: FaultLedger
  readonly runs: number
  readonly orders: number
  readonly images: number
  /** Runs that found something, with their seeds. */
  readonly failures: SimulationResult[]
}

/** Orders of each of the four orgs in one run. */
const ORDERS_PER_TENANT = 20

export type WorldServer = Awaited<ReturnType<typeof openWorldServer>>

/** A PostgreSQL server on which any number of worlds live side by side. */
export async function openWorldServer() {
  const template: TemplateDatabase = await openTemplateDatabase()
  const withTemplate = async (work: (db: ReturnType<typeof openDatabase>) => Promise<void>) => {
    const db = openDatabase(urlOf(template.url, template.templateName), { maxConnections: 1 })
    await work(db)
    await closeDatabase(db)
  }
  await withTemplate(insertPrices)
  let count = 0
  return {
    url: template.url,
    /** @throws when its text is no longer in the product's functions */
    async tryBug(bug: Bug): Promise<void> {
      if (!bug.seed) return
      count += 1
      const database = await cloneDatabase(template.url, {
        template: template.templateName,
        name: `bug_${process.pid}_${count}`,
      })
      try {
        await seedBug(database.url, bug.seed)
      } finally {
        await database.drop()
      }
    },
    /** A world in a database of its own; the bug, if any, is put in before anything happens. */
    async run(
      seed: number,
      bug: Bug | null,
      ledger: FaultLedger,
      onBroken?: (world: Awaited<ReturnType<typeof openWorld>>) => Promise<void>,
    ): Promise<SimulationResult> {
      count += 1
      const database = await cloneDatabase(template.url, {
        template: template.templateName,
        name: `world_${process.pid}_${count}`,
      })
      if (bug?.seed) await seedBug(database.url, bug.seed)
      const world = await openWorld({ databaseUrl: database.url, seed, bug, ledger })
      try {
        const result = await simulate(world, { ordersPerTenant: ORDERS_PER_TENANT })
        if (result.broken.length > 0) await onBroken?.(world)
        return result
      } catch (error) {
        const broken = [`the run itself failed: ${textOf(error)}`]
        return { seed, orders: 0, images: 0, broken }
      } finally {
        await world.close()
        await database.drop()
      }
    },
    close: () => template.close(),
  }
}

async function seedBug(url: string, seed: NonNullable<Bug['seed']>): Promise<void> {
  const db = openDatabase(url, { maxConnections: 1 })
  try {
    await seed(db)
  } finally {
    await closeDatabase(db)
  }
}

/** Runs worlds side by side, seed after seed, until one of the bounds is reached. */
export async function runWorlds(
  server: WorldServer,
  input: {
    firstSeed: number
    maxRuns: number
    maxFaults: number
    maxMinutes: number
    parallel: number
    bug?: Bug | null
    /** Ends with the first finding. */
    isStopping?: boolean
    onRun?: (result: SimulationResult, ledger: FaultLedger) => void
  },
): Promise<WorldsResult> {
  const ledger = createFaultLedger()
  const failures: SimulationResult[] = []
  const endMs = performance.now() + input.maxMinutes * 60_000
  let started = 0
  let runs = 0
  let orders = 0
  let images = 0
  const isEnough = () =>
    started >= input.maxRuns ||
    ledger.total >= input.maxFaults ||
    performance.now() > endMs ||
    (input.isStopping === true && failures.length > 0)
  const lane = async () => {
    while (!isEnough()) {
      const seed = input.firstSeed + started
      started += 1
      const result = await server.run(seed, input.bug ?? null, ledger)
      runs += 1
      orders += result.orders
      images += result.images
      if (result.broken.length > 0) failures.push(result)
      input.onRun?.(result, ledger)
    }
  }
  await Promise.all(Array.from({ length: input.parallel }, lane))
  return { ledger, runs, orders, images, failures }
}
