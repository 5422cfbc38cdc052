import { IMAGE_MICROS } from './jobs.ts'
import { MAX_FAILED_ATTEMPTS, pick } from './money-world.ts'
import type { JobOp, Op, World } from './money-world.ts'

/** What was set, and what is in force: never below what is held and spent. */
export interface ModelLimit {
  wish: bigint | null
  limit: bigint | null
  /** Thresholds that were told. */
  told: Set<number>
}
export const LIMIT_KINDS = ['balance', 'day', 'month'] as const

interface ModelLevel {
  scope: string
  limits: Record<(typeof LIMIT_KINDS)[number], ModelLimit>
  softBp: number[]
  maxInflight: number | null
  held: bigint
  spent: bigint
  inflight: number
}
interface ModelJob {
  levels: ModelLevel[]
  n: number
  state: string
  attempt: number
  failures: number
  isLive: boolean
  isOverdue: boolean
  isCancelWanted: boolean
  /** By index, whether it missed its texts and so costs nothing. */
  images: Map<number, boolean>
  captured: bigint
}
interface ModelKey {
  levels: ModelLevel[]
  isRevoked: boolean
  orders: Map<number, { body: string; job: ModelJob }>
}

/** What the books must say, in the plainest way: no SQL, no locks, one operation after the other. */
export interface MoneyModel {
  isPrepaid: boolean
  levels: ModelLevel[]
  keys: ModelKey[]
  jobs: ModelJob[]
  /** Images that each source was granted for. */
  sources: Map<number, number>
}

export function createModel(world: World): MoneyModel {
  const levels = world.levels.map(({ scope }) => ({
    scope,
    limits: {
      balance: newLimit(scope === 'org' && world.isPrepaid ? 0n : null),
      day: newLimit(null),
      month: newLimit(null),
    },
    softBp: [],
    maxInflight: null,
    held: 0n,
    spent: 0n,
    inflight: 0,
  }))
  const idOf = (id: string) => levels[world.levels.findIndex(({ scopeId }) => scopeId === id)]
  const keys = world.keys.map((key) => ({
    levels: [idOf(key.keyId), idOf(key.teamId), idOf(key.orgId)].filter((l) => l !== undefined),
    isRevoked: false,
    orders: new Map(),
  }))
  return { isPrepaid: world.isPrepaid, levels, keys, jobs: [], sources: new Map() }
}

function newLimit(limit: bigint | null): ModelLimit {
  return { wish: limit, limit, told: new Set() }
}

/** Changes the model as the operation must change the books; returns the answers that are right. */
export function applyOp(model: MoneyModel, op: Op): Record<string, unknown>[] | null {
  switch (op.op) {
    case 'reserve':
      return applyReserve(model, op)
    case 'limit':
      return applyLimit(model, op)
    case 'thresholds': {
      const level = pick(model.levels, op.level)
      if (!level) return null
      level.softBp = op.softBp.toSorted((a, b) => a - b)
      return [{ ok: true }]
    }
    case 'grant': {
      const [org] = model.levels
      if (!org) return null
      if (!model.isPrepaid) return [{ thrown: true }]
      const before = model.sources.get(op.source)
      if (before !== undefined) {
        return [before === op.images ? { granted: false } : { thrown: true }]
      }
      model.sources.set(op.source, op.images)
      const { balance } = org.limits
      balance.wish = (balance.wish ?? 0n) + BigInt(op.images) * IMAGE_MICROS
      balance.limit = balance.wish
      return [{ granted: true }]
    }
    case 'revoke': {
      const key = pick(model.keys, op.key)
      if (!key) return null
      key.isRevoked = true
      return [{ revoked: true }]
    }
    case 'claim':
    case 'giveBack':
    case 'cancel':
    case 'lapse':
    case 'overdue':
    case 'deliver':
    case 'settle': {
      const job = pick(model.jobs, op.job)
      return job ? [applyJobOp(op, job, model)] : null
    }
  }
}

function applyReserve(model: MoneyModel, op: Extract<Op, { op: 'reserve' }>) {
  const key = pick(model.keys, op.key)
  if (!key) return null
  const body = `${op.body}${op.n}`
  const earlier = op.order === null ? undefined : key.orders.get(op.order)
  if (earlier) {
    if (earlier.body !== body) return [{ ok: false, reason: 'idempotency_mismatch' }]
    return [{ ok: true, replayed: true, state: earlier.job.state }]
  }
  if (key.isRevoked) return [{ ok: false, reason: 'key_inactive' }]
  const amount = BigInt(op.n) * IMAGE_MICROS
  const refusals = key.levels.flatMap((level) => refusalsOf(level, amount))
  if (refusals.length > 0) return refusals
  const job: ModelJob = {
    levels: key.levels,
    n: op.n,
    state: 'accepted',
    attempt: 0,
    failures: 0,
    isLive: false,
    isOverdue: false,
    isCancelWanted: false,
    images: new Map(),
    captured: 0n,
  }
  for (const level of key.levels) {
    level.held += amount
    level.inflight += 1
  }
  model.jobs.push(job)
  if (op.order !== null) key.orders.set(op.order, { body, job })
  return [{ ok: true, replayed: false, state: 'accepted' }]
}

/** Any of the refusals that apply may be the one that is named. */
function refusalsOf(level: ModelLevel, amount: bigint): Record<string, unknown>[] {
  const { scope, held, spent, limits, maxInflight, inflight } = level
  const { limit } = limits.balance
  const after = held + spent + amount
  const refusals: Record<string, unknown>[] = []
  if (limit !== null && after > limit) {
    refusals.push({ ok: false, reason: 'insufficient_credit', scope, limitMicros: limit })
  } else if (maxInflight !== null && inflight >= maxInflight) {
    refusals.push({ ok: false, reason: 'too_many_inflight', scope, inflight, maxInflight })
  }
  for (const period of ['month', 'day'] as const) {
    const { limit: limitMicros } = limits[period]
    if (limitMicros !== null && after > limitMicros) {
      refusals.push({ ok: false, reason: 'budget_exceeded', scope, period, limitMicros })
      break
    }
  }
  return refusals
}

function applyLimit(model: MoneyModel, op: Extract<Op, { op: 'limit' }>) {
  const level = pick(model.levels, op.level)
  if (!level) return null
  const micros = op.images === null ? null : BigInt(op.images) * IMAGE_MICROS
  const refused = [{ ok: false, reason: 'below_committed' }]
  if (op.field === 'maxInflight') {
    if (op.images !== null && level.inflight > op.images) return refused
    level.maxInflight = op.images
    return [{ ok: true }]
  }
  if (op.field === 'creditMicros' && level.scope === 'org' && model.isPrepaid) {
    return [{ ok: false, reason: 'credit_is_granted' }]
  }
  const kinds = {
    creditMicros: 'balance',
    dayLimitMicros: 'day',
    monthLimitMicros: 'month',
  } as const
  const limit = level.limits[kinds[op.field]]
  limit.wish = micros
  limit.limit = inForce(level, limit)
  return [{ ok: true }]
}

function inForce({ held, spent }: ModelLevel, { wish }: ModelLimit): bigint | null {
  return wish !== null && wish < held + spent ? held + spent : wish
}

function applyJobOp(op: JobOp, job: ModelJob, model: MoneyModel): Record<string, unknown> {
  const isOpen = isOpenJob(job)
  const isHeld = isHeldJob(job)
  switch (op.op) {
    case 'claim':
      return { outcome: claim(job, isOpen, isHeld) }
    case 'giveBack': {
      if (job.state !== 'running') return { given: false }
      job.state = 'queued'
      job.isLive = false
      return { given: true }
    }
    case 'lapse':
      job.isLive = false
      return {}
    case 'overdue':
      job.isOverdue = true
      // Expiry is one sweep over all jobs: one that was overdue but held is taken when its lease has lapsed.
      for (const one of model.jobs) {
        if (one.isOverdue && isOpenJob(one) && !isHeldJob(one)) settle(one, 'expired', model)
      }
      return {}
    case 'cancel': {
      if (!isOpen) return { outcome: 'finished' }
      job.isCancelWanted = true
      if (isHeld) return { outcome: 'requested' }
      settle(job, 'canceled', model)
      return { outcome: 'canceled' }
    }
    case 'deliver': {
      if (op.fence === 'stale' || job.state !== 'running') return { stored: false }
      if (op.idx >= job.n) return { thrown: true }
      if (!job.images.has(op.idx)) job.images.set(op.idx, op.isMiss)
      return { stored: true }
    }
    case 'settle': {
      if (op.fence === 'stale') return { outcome: 'superseded' }
      const result = () => ({
        state: job.state,
        capturedMicros: job.captured,
        deliveredCount: job.images.size,
      })
      if (!isOpen) return { outcome: 'repeated', ...result() }
      if (op.fence === 'none' ? isHeld : job.state !== 'running') return { outcome: 'superseded' }
      if (op.outcome === 'succeeded' && job.images.size === 0) return { thrown: true }
      settle(job, op.outcome, model)
      return { outcome: 'settled', ...result() }
    }
  }
}

const isOpenJob = (job: ModelJob) => ['accepted', 'queued', 'running'].includes(job.state)
const isHeldJob = (job: ModelJob) => job.state === 'running' && job.isLive

function claim(job: ModelJob, isOpen: boolean, isHeld: boolean): string {
  if (!isOpen) return 'gone'
  if (isHeld) return 'busy'
  if (job.isCancelWanted) return 'canceled'
  if (job.isOverdue) return 'overdue'
  const failures = job.failures + (job.state === 'running' ? 1 : 0)
  if (failures >= MAX_FAILED_ATTEMPTS) return 'exhausted'
  Object.assign(job, { failures, state: 'running', isLive: true, attempt: job.attempt + 1 })
  return 'claimed'
}

function settle(job: ModelJob, outcome: string, model: MoneyModel): void {
  const amount = BigInt(job.n) * IMAGE_MICROS
  const charged = [...job.images.values()].filter((isMiss) => !isMiss)
  job.captured = BigInt(charged.length) * IMAGE_MICROS
  job.state = job.images.size > 0 ? 'succeeded' : outcome
  job.isLive = false
  for (const level of job.levels) {
    level.held -= amount
    level.spent += job.captured
    level.inflight -= 1
    for (const kind of LIMIT_KINDS) {
      const limit = level.limits[kind]
      limit.limit = inForce(level, limit)
      const isGranted = model.isPrepaid && level.scope === 'org' && kind === 'balance'
      if (limit.wish === null || level.spent === 0n || isGranted) continue
      for (const bp of level.softBp) {
        if (level.spent * 10_000n >= limit.wish * BigInt(bp)) limit.told.add(bp)
      }
    }
  }
}
