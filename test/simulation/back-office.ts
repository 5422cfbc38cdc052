import { setTimeout as wait } from 'node:timers/promises'
import { expireCredit, grantCredit } from '../../billing/credit.ts'
import { moveKey } from '../../billing/move-key.ts'
import { setBudget } from '../../db/orgs.ts'
import { createDeliverySlots, sweepOnce } from '../../edge/sweep.ts'
import type { SweepDeps } from '../../edge/sweep.ts'
import { NO_OBJECTS } from '../support/app.ts'
import { TEST_PEPPER } from '../support/pepper.ts'
import { isExpected, persist, textOf } from './expected-errors.ts'
import { createLife, withLife } from './life.ts'
import { pace } from './pace.ts'
import { createDispatcher } from './message-queue.ts'
import { readLetters } from './workers.ts'
import type { Tenant, World } from './world.ts'

const KILL_RATE = 0.004
/** Of the gateways' own clocks against Stripe's, while faults fire. Budgets, leases and deadlines go by PostgreSQL's. */
const SKEWS_MS = [5 * 60_000, -5 * 60_000]

/** One gateway's sweep, again and again; killed now and then in the middle of one. */
export async function runSweeper(
  world: World,
  input: { slot: number; isOver: () => boolean },
): Promise<void> {
  const random = world.random(`sweeper ${input.slot}`)
  const rate = () => (world.isQuiet() ? 0 : KILL_RATE)
  const skewMs = SKEWS_MS[input.slot % SKEWS_MS.length] ?? 0
  const now = () => new Date(world.fake.state.nowMs + (world.isQuiet() ? 0 : skewMs))
  world.ledger.note('gateway', `clock five minutes ${skewMs > 0 ? 'ahead' : 'behind'}`)
  while (!input.isOver()) {
    // One is enough to bring things to an end, and twice as quick.
    if (world.isQuiet() && input.slot > 0) {
      await wait(50)
      continue
    }
    const life = createLife({ name: 'sweeper', random, ledger: world.ledger, rate })
    await pace(world.isQuiet() ? 30 : 200, async () => {
      const wasQuiet = world.isQuiet()
      await sweep(world, depsOf(world, withLife(world.db, life), now))
      if (wasQuiet) world.quietSweeps += 1
      await readLetters(world)
    })
  }
}

/** Everything that is due, once; what fails is either a fault's work or a finding. */
async function sweep(world: World, deps: SweepDeps): Promise<void> {
  const report = await sweepOnce(deps, createDeliverySlots(4))
  for (const [part, result] of Object.entries(report)) {
    if (result instanceof Error && !isExpected(result)) {
      world.journal.broken.push(`the sweep's ${part} failed: ${textOf(result)}`)
    }
  }
}

function depsOf(world: World, db: SweepDeps['db'], now: () => Date): SweepDeps {
  const receiver = world.random('receiver')
  return {
    db,
    pepper: TEST_PEPPER,
    now,
    allowLoopbackWebhooks: true,
    objects: NO_OBJECTS,
    queue: (world.bug?.wrapDispatcher ?? createDispatcher)(db, world.queue),
    stripe: { ...world.stripe, db, now },
    sendWebhook: ({ body }) => {
      const isStruck = !world.isQuiet() && receiver.chance(0.1)
      if (isStruck) world.ledger.note('receiver of webhooks', 'answers 503')
      const { data } = JSON.parse(body) as { data?: { job_id?: string } }
      const jobId = data?.job_id ?? ''
      const bodies = world.journal.deliveries.get(jobId) ?? new Set<string>()
      world.journal.deliveries.set(jobId, bodies.add(body))
      return Promise.resolve({
        ok: true,
        statusCode: isStruck ? 503 : 204,
        retryAfterSeconds: null,
      })
    },
  }
}

/** What an operator does while customers work: limits, credit, keys that change teams. */
export async function runOperator(world: World, isOver: () => boolean): Promise<void> {
  const random = world.random('operator')
  for (let turn = 0; !isOver(); turn++) {
    await wait(60)
    const tenant = random.pick(world.tenants as [Tenant, ...Tenant[]])
    const keyId = random.pick(tenant.keyIds)
    const choice = random.int(5)
    if (choice === 0) {
      const limit = random.chance(0.5) ? null : tenant.unitMicros * BigInt(20 + random.int(60))
      await persist(world.journal, 'a limit', () =>
        setBudget(world.db, { scope: 'key', scopeId: keyId, monthLimitMicros: limit }),
      )
    } else if (choice === 1) {
      const teamId = random.pick(tenant.teamIds as [string, ...string[]])
      const validFrom = new Date(Date.now() - 3_600_000)
      await persist(world.journal, 'a move', () => moveKey(world.db, { keyId, teamId, validFrom }))
    } else if (choice === 2) {
      await persist(world.journal, 'expiry of credit', () => expireCredit(world.db, { limit: 50 }))
    } else if (tenant.mode !== 'internal') {
      const isPromo = tenant.mode === 'postpaid' || random.chance(0.4)
      await grant(world, tenant, {
        sourceId: `${tenant.orgId}:grant-${random.int(8)}`,
        images: BigInt(isPromo ? 3 : 12),
        isPromo,
        expiresAt: random.chance(0.5) ? new Date(Date.now() + 3_600_000) : null,
      })
    }
  }
}

/** Grants credit and notes it. The same source may come twice, and then means the same credit. */
export async function grant(
  world: World,
  tenant: Tenant,
  input: { sourceId: string; images: bigint; isPromo: boolean; expiresAt: Date | null },
): Promise<void> {
  const { orgId } = tenant
  const { grants } = world.journal
  const known = grants.find(({ sourceId }) => sourceId === input.sourceId)
  // A repeat under the same source asks for the same, or it would be another wish.
  if (known) {
    world.ledger.note('operator', 'credit granted again under one source')
  }
  const noted = known ?? {
    orgId,
    sourceId: input.sourceId,
    amountMicros: tenant.unitMicros * input.images,
    isAcknowledged: false,
    kind: input.isPromo ? 'promo' : 'paid',
  }
  if (!known) grants.push(noted)
  const { sourceId, amountMicros, kind } = noted
  const answer = await persist(world.journal, 'a grant', () =>
    grantCredit(world.db, { orgId, amountMicros, sourceId, kind, expiresAt: input.expiresAt }),
  )
  if (answer !== null) noted.isAcknowledged = true
}
