import fc from 'fast-check'
import { grantCredit } from '../../billing/credit.ts'
import { expireOverdue } from '../../billing/expire.ts'
import { settleJob } from '../../billing/settle.ts'
import type { Db } from '../../db/client.ts'
import { claimJob, giveBackJob, requestCancel } from '../../db/job-claims.ts'
import type { TerminalState } from '../../db/job-state.ts'
import { revokeKey } from '../../db/keys.ts'
import type { BudgetScope } from '../../db/orgs.ts'
import { setBudget } from '../../db/orgs.ts'
import {
  IMAGE_MICROS,
  MISSED,
  PASSED,
  createBareKey,
  createBareTenant,
  deliver,
  reserve,
} from './jobs.ts'
import type { BareTenant } from './jobs.ts'

export const MAX_FAILED_ATTEMPTS = 3

/** Something that may happen to the books. Numbers that name a key, level or job are taken modulo their count. */
export type Op =
  | { op: 'reserve'; key: number; n: number; order: number | null; body: 'a' | 'b' }
  | { op: 'claim' | 'giveBack' | 'cancel' | 'lapse' | 'overdue'; job: number }
  | { op: 'deliver'; job: number; idx: number; isMiss: boolean; fence: Fence }
  | { op: 'settle'; job: number; outcome: TerminalState; fence: Fence | 'none' }
  | { op: 'limit'; level: number; field: LimitField; images: number | null }
  | { op: 'thresholds'; level: number; softBp: number[] }
  | { op: 'grant'; images: number; source: number }
  | { op: 'revoke'; key: number }
export type Fence = 'current' | 'stale'
export type LimitField = 'creditMicros' | 'dayLimitMicros' | 'monthLimitMicros' | 'maxInflight'

const jobNumber = fc.nat(9)
const fence = fc.constantFrom<Fence>('current', 'current', 'current', 'stale')

/** Operations in proportions that fill budgets, settle most jobs and revoke few keys. */
export const anyOp: fc.Arbitrary<Op> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      op: fc.constant('reserve' as const),
      key: fc.nat(2),
      n: fc.integer({ min: 1, max: 4 }),
      order: fc.option(fc.nat(2), { freq: 3 }),
      body: fc.constantFrom('a' as const, 'a' as const, 'b' as const),
    }),
  },
  {
    weight: 9,
    arbitrary: fc.record({
      op: fc.constantFrom('claim', 'claim', 'claim', 'giveBack', 'cancel', 'lapse', 'overdue'),
      job: jobNumber,
    }) as fc.Arbitrary<Op>,
  },
  {
    weight: 6,
    arbitrary: fc.record({
      op: fc.constant('deliver' as const),
      job: jobNumber,
      idx: fc.nat(3),
      isMiss: fc.boolean(),
      fence,
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({
      op: fc.constant('settle' as const),
      job: jobNumber,
      outcome: fc.constantFrom<TerminalState>('succeeded', 'failed', 'canceled', 'expired'),
      fence: fc.constantFrom<Fence | 'none'>('current', 'current', 'stale', 'none'),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      op: fc.constant('limit' as const),
      level: fc.nat(5),
      field: fc.constantFrom<LimitField>(
        'creditMicros',
        'dayLimitMicros',
        'monthLimitMicros',
        'maxInflight',
      ),
      images: fc.option(fc.nat(12), { freq: 3 }),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      op: fc.constant('thresholds' as const),
      level: fc.nat(5),
      softBp: fc.subarray([10_000, 3_333, 5_000]),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      op: fc.constant('grant' as const),
      images: fc.constantFrom(4, 7),
      source: fc.nat(2),
    }),
  },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('revoke' as const), key: fc.nat(2) }) },
)

export interface WorldLevel {
  scope: BudgetScope
  scopeId: string
}
export interface WorldJob {
  id: string
  attempt: number
}

/** One org with two teams and three keys on a real database, and the jobs that it was given. */
export interface World {
  db: Db
  orgId: string
  isPrepaid: boolean
  keys: BareTenant[]
  /** Org, two teams, three keys. */
  levels: WorldLevel[]
  jobs: WorldJob[]
}

export async function createWorld(db: Db, isPrepaid: boolean): Promise<World> {
  const first = await createBareTenant(db, {
    settlementMode: isPrepaid ? 'prepaid' : 'postpaid',
  })
  const { orgId, teamId } = first
  const second = { orgId, ...(await createBareKey(db, orgId, { teamId })) }
  const third = { orgId, ...(await createBareKey(db, orgId)) }
  const keys = [first, second, third]
  const levels: WorldLevel[] = [
    { scope: 'org', scopeId: orgId },
    { scope: 'team', scopeId: teamId },
    { scope: 'team', scopeId: third.teamId },
    ...keys.map(({ keyId }) => ({ scope: 'key' as const, scopeId: keyId })),
  ]
  return { db, orgId, isPrepaid, keys, levels, jobs: [] }
}

/** The element that a number of an operation names; undefined when there is none yet. */
export function pick<T>(list: readonly T[], number: number): T | undefined {
  return list[number % Math.max(1, list.length)]
}

/** What is asked of the database, in the product's own calls; returns their answer, or `thrown`. */
export async function runOp(world: World, op: Op): Promise<Record<string, unknown> | null> {
  const { db, orgId } = world
  switch (op.op) {
    case 'reserve': {
      const key = pick(world.keys, op.key)
      if (!key) return null
      const result = await reserve(db, key, {
        n: op.n,
        idempotencyKey: op.order === null ? null : `order-${op.order}`,
        requestHash: `${op.body}${op.n}`,
        textTerms: { guarantee: 'refund', threshold: 1, retries: 0, expected: ['OPEN'] },
      })
      if (result.ok && !result.replayed) world.jobs.push({ id: result.jobId, attempt: 0 })
      return { ...result }
    }
    case 'limit': {
      const level = pick(world.levels, op.level)
      if (!level) return null
      const unit = op.field === 'maxInflight' ? 1n : IMAGE_MICROS
      const micros = op.images === null ? null : BigInt(op.images) * unit
      const limit = op.field === 'maxInflight' ? op.images : micros
      return { ...(await setBudget(db, { ...level, [op.field]: limit })) }
    }
    case 'thresholds': {
      const level = pick(world.levels, op.level)
      if (!level) return null
      return { ...(await setBudget(db, { ...level, softBp: op.softBp })) }
    }
    case 'grant': {
      const amountMicros = BigInt(op.images) * IMAGE_MICROS
      const sourceId = `${orgId}:${op.source}`
      return await orThrown(async () => ({
        granted: await grantCredit(db, { orgId, amountMicros, sourceId }),
      }))
    }
    case 'revoke': {
      const key = pick(world.keys, op.key)
      return key ? { revoked: await revokeKey(db, key) } : null
    }
    case 'claim':
    case 'giveBack':
    case 'cancel':
    case 'lapse':
    case 'overdue':
    case 'deliver':
    case 'settle': {
      const job = pick(world.jobs, op.job)
      return job ? await runJobOp(world, op, job) : null
    }
  }
}

export type JobOp = Exclude<Op, { op: 'reserve' | 'limit' | 'thresholds' | 'grant' | 'revoke' }>

async function runJobOp(
  { db, orgId }: World,
  op: JobOp,
  job: WorldJob,
): Promise<Record<string, unknown>> {
  const jobId = job.id
  switch (op.op) {
    case 'claim': {
      const claim = { jobId, workerId: 'w', leaseSeconds: 60 }
      const result = await claimJob(db, { ...claim, maxFailedAttempts: MAX_FAILED_ATTEMPTS })
      if (result.outcome === 'claimed') job.attempt = result.job.attempt
      return { outcome: result.outcome }
    }
    case 'giveBack':
      return {
        given: await giveBackJob(db, { jobId, attempt: job.attempt, countFailure: false }),
      }
    case 'cancel':
      return { ...(await requestCancel(db, { orgId, jobId })) }
    case 'lapse':
      await db.sql`update job set lease_until = now() - interval '1 second' where id = ${jobId} and state = 'running'`
      return {}
    case 'overdue':
      await db.sql`update job set deadline_at = now() where id = ${jobId}`
      await expireOverdue(db, { limit: 1000 })
      return {}
    case 'deliver': {
      const attempt = op.fence === 'stale' ? job.attempt - 1 : job.attempt
      return await orThrown(async () => ({
        stored: await deliver(db, jobId, attempt, op.idx, op.isMiss ? MISSED : PASSED),
      }))
    }
    case 'settle': {
      const fences = { current: job.attempt, stale: job.attempt - 1, none: null }
      const attempt = fences[op.fence]
      return await orThrown(async () => settleJob(db, { jobId, attempt, outcome: op.outcome }))
    }
  }
}

/** Refusals of what is wrong to ask; anything else that is thrown fails the test. */
async function orThrown(work: () => Promise<object>): Promise<Record<string, unknown>> {
  try {
    return { ...(await work()) }
  } catch (error) {
    const isExpected =
      error instanceof RangeError ||
      (error instanceof Error &&
        /without a stored image|has no paid credit|granted before/.test(error.message))
    if (isExpected) return { thrown: true }
    throw error
  }
}
