import { createReserveQueue } from '../../billing/reserve-queue.ts'
import type { Reserve } from '../../billing/reserve-queue.ts'
import { reserveJob } from '../../billing/reserve.ts'
import { createStripe } from '../../billing/stripe/client.ts'
import type { StripeDeps } from '../../billing/stripe/client.ts'
import { setUpStripe } from '../../billing/stripe/setup.ts'
import { subscribe } from '../../billing/stripe/subscription.ts'
import { closeDatabase, openDatabase } from '../../db/client.ts'
import type { Db } from '../../db/client.ts'
import { insertEndpoint } from '../../db/webhooks.ts'
import { startFakeStripe } from '../support/fake-stripe/server.ts'
import type { FakeStripe } from '../support/fake-stripe/server.ts'
import { createBareKey, createBareTenant } from '../support/jobs.ts'
import type { Bug } from './bugs.ts'
import { startDatabaseProxy } from './database-proxy.ts'
import type { FaultLedger } from './fault-ledger.ts'
import { createFaultPlan } from './fault-plan.ts'
import { createJournal } from './journal.ts'
import type { Journal } from './journal.ts'
import { createMessageQueue } from './message-queue.ts'
import type { StoredPictures } from './picture-store.ts'
import { createRandom } from './random.ts'
import type { Random } from './random.ts'
import { PRICES } from './simulation-prices.ts'
import { strikeStripe } from './stripe-faults.ts'
import { installWatch } from './watch.ts'

/** Of the product's pools here. Silence lasts half as much again, and every caller of it waits that long. */
const STATEMENT_TIMEOUT_MS = 1_500
const SILENCE_MS = STATEMENT_TIMEOUT_MS * 1.5 + 300
const HOUR_MS = 3_600_000

export interface Tenant {
  readonly mode: 'prepaid' | 'postpaid' | 'internal'
  readonly isMetered: boolean
  readonly orgId: string
  readonly teamIds: readonly string[]
  readonly keyIds: readonly [string, ...string[]]
  readonly unitMicros: bigint
  readonly priceVersionId: string
}

/** One database with four orgs, a Stripe account, a queue and an object store, and what may befall them. */
export interface World {
  readonly seed: number
  readonly bug: Bug | null
  /** The product's way to the database. */
  readonly db: Db
  /** Some gateway's way to accept a job. */
  readonly reserve: Reserve
  /** Past the proxy: for what the world does by itself, and for the oracle. */
  readonly direct: Db
  readonly ledger: FaultLedger
  readonly journal: Journal
  readonly pictures: StoredPictures
  readonly queue: ReturnType<typeof createMessageQueue>
  readonly fake: FakeStripe
  readonly stripe: StripeDeps
  readonly tenants: readonly Tenant[]
  random(name: string): Random
  /** No more faults from now on, or faults again. */
  setQuiet(isQuiet: boolean): void
  readonly isQuiet: () => boolean
  /** Stripe's month has ended: usage is invoiced by now. */
  isMonthOver(): boolean
  endMonth(): void
  /** Whole sweeps that were made without a fault. */
  quietSweeps: number
  close(): Promise<void>
}

/** @param databaseUrl a fresh migrated database of its own */
export async function openWorld(input: {
  databaseUrl: string
  seed: number
  bug?: Bug | null
  /** Where faults are noted, those of other worlds too. */
  ledger: FaultLedger
}): Promise<World> {
  const { databaseUrl, seed, bug = null, ledger } = input
  const plan = createFaultPlan(seed, ledger)
  plan.isQuiet = true
  const isQuiet = () => plan.isQuiet
  let isMonthOver = false
  const proxy = await startDatabaseProxy(databaseUrl, {
    plan,
    ledger,
    silenceMs: SILENCE_MS,
    ...(bug?.rewrite && { rewrite: bug.rewrite }),
  })
  const db = openDatabase(proxy.url, {
    maxConnections: 10,
    statementTimeoutMs: STATEMENT_TIMEOUT_MS,
  })
  const direct = openDatabase(databaseUrl, { maxConnections: 2, statementTimeoutMs: 60_000 })
  const fake = await startFakeStripe(Date.now())
  const own: StripeDeps = {
    db,
    stripe: createStripe({
      secretKey: 'sk_test_fake',
      webhookSecrets: [fake.secret],
      apiBase: fake.url,
      timeoutMs: 10_000,
    }),
    webhookSecrets: [fake.secret],
    now: () => new Date(fake.state.nowMs),
    log: () => {},
  }
  const stripe = bug?.wrapStripe?.(own, fake) ?? own
  await installWatch(direct)
  await setUpStripe(own.stripe, { webhookUrl: null })
  const tenants = await createTenants(direct, { ...own, db: direct }, fake)
  strikeStripe(fake, { random: createRandom(seed, 'stripe'), ledger, isQuiet })
  const journal = createJournal()
  const onTaken = (jobId: string) =>
    void journal.queued.set(jobId, (journal.queued.get(jobId) ?? 0n) + 1n)
  return {
    seed,
    bug,
    db,
    reserve: createGateways(db, bug),
    direct,
    ledger,
    journal,
    pictures: new Map(),
    queue: createMessageQueue({ random: createRandom(seed, 'queue'), ledger, isQuiet, onTaken }),
    fake,
    stripe,
    tenants,
    random: (name) => createRandom(seed, name),
    setQuiet: (isQuietNow) => void (plan.isQuiet = isQuietNow),
    isQuiet,
    isMonthOver: () => isMonthOver,
    endMonth: () => void (isMonthOver = true),
    quietSweeps: 0,
    async close() {
      await closeDatabase(db, { timeoutSeconds: 0 })
      await proxy.close()
      await closeDatabase(direct)
      await fake.close()
    },
  }
}

/** Two gateways of Node, where calls of an org go together, and one of Workers, where each goes by itself; in turn. */
function createGateways(db: Db, bug: Bug | null): Reserve {
  const alone: Reserve = (input) => (bug?.reserve ?? reserveJob)(db, input)
  const gateways = bug?.reserve ? [alone] : [createReserveQueue(db), createReserveQueue(db), alone]
  let turn = 0
  return (input) => {
    turn += 1
    return (gateways[turn % gateways.length] ?? alone)(input)
  }
}

async function createTenants(db: Db, stripe: StripeDeps, fake: FakeStripe): Promise<Tenant[]> {
  const plans = [
    { mode: 'prepaid', isMetered: false, price: PRICES.list, maxInflight: 30 },
    { mode: 'postpaid', isMetered: true, price: PRICES.list, maxInflight: 30 },
    // Always at its edge.
    { mode: 'postpaid', isMetered: false, price: PRICES.uneven, maxInflight: 4 },
    { mode: 'internal', isMetered: false, price: PRICES.dear, maxInflight: null },
  ] as const
  const tenants: Tenant[] = []
  for (const { mode, isMetered, price, maxInflight } of plans) {
    const first = await createBareTenant(db, {
      settlementMode: mode,
      team: { maxInflight },
    })
    const { orgId, teamId, keyId } = first
    const second = await createBareKey(db, orgId)
    await insertEndpoint(db, {
      orgId,
      url: `http://127.0.0.1/${orgId}`,
      description: null,
      eventTypes: [],
    })
    if (isMetered) {
      fake.advance(-2 * HOUR_MS)
      await subscribe(stripe, { orgId, collection: 'charge_automatically' })
      fake.advance(2 * HOUR_MS)
    }
    tenants.push({
      mode,
      isMetered,
      orgId,
      teamIds: [teamId, second.teamId],
      keyIds: [keyId, second.keyId],
      ...price,
    })
  }
  return tenants
}
