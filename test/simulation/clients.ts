import { setTimeout as wait } from 'node:timers/promises'
import type { ReserveResult } from '../../billing/reserve.ts'
import { createId } from '../../db/ids.ts'
import { requestCancel } from '../../db/job-claims.ts'
import { refundImages } from '../../billing/refund.ts'
import type { TextGuarantee } from '../../db/text-terms.ts'
import { newJob } from '../support/jobs.ts'
import { persist } from './expected-errors.ts'
import type { Order } from './journal.ts'
import { createDispatcher } from './message-queue.ts'
import { EXPECTED_TEXT } from './picture-reader.ts'
import type { Random } from './random.ts'
import type { Tenant, World } from './world.ts'

/** How often a caller comes back for a place in flight. */
const PATIENCE = 12
const PLACE_POLL_MS = 150

/** Places a tenant's orders, some at the same time, and waits until the last has its answer. */
export async function runClients(world: World, tenant: Tenant, orders: number): Promise<void> {
  const { orgId } = tenant
  const random = world.random(`client ${world.tenants.indexOf(tenant)}`)
  const plans = Array.from({ length: orders }, () => planOrder(random, tenant))
  const LINES = 4
  await Promise.all(
    Array.from({ length: LINES }, async (_, line) => {
      for (let at = line; at < plans.length; at += LINES) {
        const plan = plans[at]
        if (!plan) continue
        await wait(plan.waitMs)
        const jobId = await placeOrder(world, tenant, plan)
        if (jobId === null) continue
        if (plan.isCanceled) {
          await persist(world.journal, 'a cancellation', () =>
            requestCancel(world.db, { orgId, jobId }),
          )
        }
        if (plan.isRefunded) await refundWhenDone(world, orgId, jobId)
      }
    }),
  )
}

interface OrderPlan {
  keyId: string
  n: number
  idempotencyKey: string | null
  /** Equal calls at the same time. */
  twins: number
  isChanged: boolean
  guarantee: TextGuarantee | null
  isRepeated: boolean
  isCanceled: boolean
  isRefunded: boolean
  waitMs: number
}

function planOrder(random: Random, tenant: Tenant): OrderPlan {
  const hasKey = random.chance(0.7)
  return {
    keyId: random.pick(tenant.keyIds),
    n: 1 + random.int(3),
    idempotencyKey: hasKey ? `order-${random.int(1e9)}` : null,
    twins: hasKey && random.chance(0.3) ? 2 : 1,
    isChanged: hasKey && random.chance(0.2),
    guarantee: random.chance(0.4) ? random.pick(['report', 'retry', 'refund', 'refund']) : null,
    isRepeated: hasKey && random.chance(0.3),
    isCanceled: random.chance(0.15),
    isRefunded: random.chance(0.15),
    waitMs: random.int(120),
  }
}

/** @returns the job that the caller was told of */
async function placeOrder(world: World, tenant: Tenant, plan: OrderPlan): Promise<string | null> {
  const { keyId, n, idempotencyKey } = plan
  const order: Order = {
    orgId: tenant.orgId,
    keyId,
    idempotencyKey,
    unitMicros: tenant.unitMicros,
    guarantee: plan.guarantee,
    tried: new Map(),
    acknowledged: new Map(),
    isCanceled: false,
  }
  world.journal.orders.push(order)
  const twins = await Promise.all(
    Array.from({ length: plan.twins }, () => askOften(world, tenant, order, n)),
  )
  if (plan.isChanged) {
    world.ledger.note('client', 'repeated with another body')
    await askOften(world, tenant, order, n + 1)
  }
  if (plan.isRepeated) {
    world.ledger.note('client', 'repeated with the same body')
    await askOften(world, tenant, order, n)
  }
  return twins.find((jobId) => jobId !== null) ?? null
}

/**
 * Asks until there is an answer. Under a key of its own each call has a job id of its own, as the gateway gives it;
 * without one the gateway takes the lost call up under its first id.
 */
async function askOften(
  world: World,
  tenant: Tenant,
  order: Order,
  n: number,
): Promise<string | null> {
  const firstId = createId('job')
  let isFirst = true
  for (let round = 0; ; round++) {
    const result = await persist(world.journal, 'an order', async () => {
      if (!isFirst) world.ledger.note('client', 'repeated after an error')
      const jobId = isFirst || order.idempotencyKey === null ? firstId : createId('job')
      isFirst = false
      return await ask(world, tenant, order, { jobId, n })
    })
    if (result === null) return null
    if (result.ok) return result.jobId
    if (result.reason !== 'too_many_inflight' || round === PATIENCE) return null
    // All at once again, as callers do that were told of the same second.
    await wait(PLACE_POLL_MS - (performance.now() % PLACE_POLL_MS))
  }
}

async function ask(
  world: World,
  tenant: Tenant,
  order: Order,
  call: { jobId: string; n: number },
): Promise<ReserveResult> {
  const { jobId, n } = call
  const { orgId, keyId, idempotencyKey } = order
  const [key] = await world.direct.sql<{ teamId: string }[]>`
    select team_id as "teamId" from api_key where id = ${keyId}`
  order.tried.set(jobId, n)
  const { unitMicros, priceVersionId } = tenant
  const textTerms = order.guarantee && {
    guarantee: order.guarantee,
    threshold: 1,
    retries: order.guarantee === 'retry' ? 1 : 0,
    expected: [EXPECTED_TEXT],
  }
  const wanted = { id: jobId, n, idempotencyKey, ...(textTerms && { textTerms }) }
  const job = newJob({ orgId, teamId: key?.teamId ?? '', keyId }, wanted)
  const result = await world.reserve({
    job: { ...job, requestHash: `body ${n}`, deadlineSeconds: 900 },
    price: { unitMicros, priceVersionId, listVersionId: priceVersionId, orgPriceId: null },
  })
  if (!result.ok) {
    const known = order.acknowledged.get(idempotencyKey === null ? jobId : '')
    if (known !== undefined) {
      world.journal.broken.push(`order ${jobId} was accepted and then refused: ${result.reason}`)
    }
    return result
  }
  order.acknowledged.set(result.jobId, n)
  if (!result.replayed) {
    const { outboxId } = result
    const dispatcher = world.bug?.wrapDispatcher ?? createDispatcher
    // The sweep sends it if this fails.
    void dispatcher(world.db, world.queue)
      .send({ outboxId, jobId: result.jobId, orgId })
      .catch(() => {})
  }
  return result
}

async function refundWhenDone(world: World, orgId: string, jobId: string): Promise<void> {
  for (let look = 0; look < 20 && !world.isQuiet(); look++) {
    await wait(100)
    const [job] = await world.direct.sql<{ state: string; n: number }[]>`
      select state, n from job where id = ${jobId}`
    if (job?.state !== 'succeeded') continue
    await refund(world, orgId, jobId, [0])
    return
  }
}

/** Asks for a refund of charged pictures under one name, until it has an answer. */
export async function refund(
  world: World,
  orgId: string,
  jobId: string,
  indexes: readonly number[],
): Promise<void> {
  const noted = { orgId, jobId, indexes, isAcknowledged: false }
  world.journal.refunds.push(noted)
  const refundId = `refund-${indexes.join('-')}`
  const given = await persist(world.journal, 'a refund', () =>
    (world.bug?.refund ?? refundImages)(world.db, { orgId, jobId, indexes, refundId }),
  )
  noted.isAcknowledged = given !== null
}
