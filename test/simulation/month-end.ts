import { setTimeout as wait } from 'node:timers/promises'
import { moveKey } from '../../billing/move-key.ts'
import { closeStatement } from '../../billing/statement/close.ts'
import { monthOf } from '../../billing/statement/month.ts'
import { setBudget } from '../../db/orgs.ts'
import { closePeriod } from '../support/fake-stripe/invoicing.ts'
import { refund } from './clients.ts'
import { persist } from './expected-errors.ts'
import { passMonth } from './passing-time.ts'
import type { Tenant, World } from './world.ts'

const HOUR_MS = 3_600_000
const TRIES = 40
const REFUNDS = 6

/**
 * A month ends under faults: statements are closed by several at once, pictures of the closed month are refunded, keys
 * move, and Stripe makes its invoices. The world must be at rest before it.
 */
export async function endMonth(world: World): Promise<void> {
  await limitMonth(world)
  await passMonth(world)
  const { state } = world.fake
  // Of the month in which the usage lies; Stripe's clock is ahead and may have passed its end.
  const { end } = monthOf(new Date())
  world.fake.advance(Math.max(0, end.getTime() + HOUR_MS - state.nowMs))
  for (const { id } of state.subscriptions.values()) closePeriod(state, id)
  world.endMonth()
  world.setQuiet(false)
  await Promise.all([
    ...world.tenants
      .filter(({ mode }) => mode !== 'postpaid')
      .flatMap((tenant) => [closeMonth(world, tenant), closeMonth(world, tenant)]),
    refundSome(world),
    moveSome(world),
  ])
  // Stripe's part goes on in the background.
  await wait(4_000)
}

/** Teams and orgs get their first limit of the month when much of it has been used, and some of that refunded. */
async function limitMonth(world: World): Promise<void> {
  for (const { orgId, teamIds, unitMicros } of world.tenants) {
    const levels = [
      { scope: 'org', scopeId: orgId } as const,
      ...teamIds.map((scopeId) => ({ scope: 'team', scopeId }) as const),
    ]
    for (const level of levels) {
      const monthLimitMicros = unitMicros * 10_000n
      await persist(world.journal, 'a limit', () =>
        setBudget(world.db, { ...level, monthLimitMicros }),
      )
    }
  }
}

async function closeMonth(world: World, { orgId }: Tenant): Promise<void> {
  const start = monthOf(new Date()).start
  const month = monthOf(new Date(start.getTime() - 1))
  const scope = { orgId, teamId: null, month }
  const result = await persist(
    world.journal,
    'closing a statement',
    () => closeStatement(world.db, scope, { graceSeconds: 0 }),
    TRIES,
  )
  if (result === null) return
  if (!result.ok) {
    if (result.reason === 'books_differ')
      world.journal.broken.push(`a statement cannot be closed: ${JSON.stringify(result, String)}`)
    return
  }
  const { json, sha256 } = result.file
  world.journal.statements.push({ orgId, teamId: null, month: month.month, json, sha256 })
}

async function refundSome(world: World): Promise<void> {
  const rows = await world.direct.sql<{ id: string; orgId: string; idx: number }[]>`
    select j.id, j.org_id as "orgId", o.idx from job j join job_output o on o.job_id = j.id
     where j.state = 'succeeded' order by j.id, o.idx`
  const random = world.random('late refunds')
  for (const { id, orgId, idx } of random.shuffle(rows).slice(0, REFUNDS)) {
    await refund(world, orgId, id, [idx])
  }
}

async function moveSome(world: World): Promise<void> {
  for (const tenant of world.tenants) {
    const [keyId] = tenant.keyIds
    const [teamId = ''] = tenant.teamIds
    const validFrom = new Date(Date.now() - 24 * HOUR_MS)
    await persist(world.journal, 'a move', () => moveKey(world.db, { keyId, teamId, validFrom }))
  }
}
