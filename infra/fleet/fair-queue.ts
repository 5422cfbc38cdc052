import { createNumberHeap, read } from './heaps.ts'

/**
 * How SQS chooses the next message of a standard queue whose messages name their tenant as group: its published rule
 * of fair queues. A tenant is noisy with over a tenth of what is in flight and 30 of its own, or with over a tenth of
 * the recent processing time. Quiet tenants go first, in order of age; among noisy ones the one with the fewest in
 * flight. One that has sent nothing for five minutes is not noisy, however much of it still waits.
 */
export interface FairQueue {
  /** A message that can be received from now on; `isBack` for one that was received before. */
  readonly show: (job: number, now: number, isBack: boolean) => void
  /** Receives one; -1 when there is none. */
  readonly take: (now: number) => number
  /** It was deleted, or its visibility ended. */
  readonly release: (job: number, now: number) => void
}

/** Both shares are a tenth, by the published page, where they are called approximate. */
const NOISY_SHARE = 0.1
const NOISY_IN_FLIGHT = 30
export const SILENCE_SECONDS = 300
/** How recent is recent is not published; as long as the silence after which a tenant is forgiven. */
const MEMORY_SECONDS = 300

/**
 * @param input.tenantOf by job; jobs are numbered in the order of their sending
 * @param input.isOpen false of jobs that have ended: their messages are as good as deleted
 * @param input.isFair false for plain order of age, to see what the rule is worth
 */
export function createFairQueue(input: {
  tenantOf: Int32Array
  tenants: number
  isOpen: (job: number) => boolean
  isFair: boolean
}): FairQueue {
  const { tenantOf, tenants } = input
  const lines = createLines(tenantOf.length, tenants)
  const shares = createShares(tenants)
  const selection = createSelection({ ...input, lines, shares })
  return {
    show(job, now, isBack) {
      const tenant = read(tenantOf, job)
      if (!isBack) shares.sent(tenant, now)
      const before = lines.head(tenant)
      if (isBack) lines.unshift(tenant, job)
      else lines.push(tenant, job)
      if (lines.head(tenant) !== before) selection.offer(tenant, job)
    },
    take(now) {
      const job = selection.choose(now)
      if (job === -1) return -1
      const tenant = read(tenantOf, job)
      selection.offer(tenant, lines.shift(tenant))
      shares.begin(tenant, now)
      return job
    },
    release: (job, now) => shares.end(read(tenantOf, job), now),
  }
}

/** Which line is next. Its cost does not grow with the number of tenants, but for the depth of a heap. */
function createSelection(input: {
  tenantOf: Int32Array
  tenants: number
  isOpen: (job: number) => boolean
  isFair: boolean
  lines: Lines
  shares: Shares
}) {
  const { tenantOf, isOpen, isFair, lines, shares } = input
  /** The first of each quiet tenant's line; entries that are not that any more are passed over. */
  const oldest = createNumberHeap()
  /** Few: no more than nine can have over a tenth of a thing. */
  const noisy: number[] = []
  const isListed = new Uint8Array(input.tenants)

  const offer = (tenant: number, head: number) => {
    if (head !== -1 && isListed[tenant] === 0) oldest.push(head)
  }
  /** The first that is still open. */
  const headOf = (tenant: number) => {
    const before = lines.head(tenant)
    let head = before
    while (head !== -1 && !isOpen(head)) head = lines.shift(tenant)
    if (head !== before) offer(tenant, head)
    return head
  }
  const forgive = (now: number) => {
    for (let index = noisy.length - 1; index >= 0; index--) {
      const tenant = noisy[index] ?? 0
      const head = headOf(tenant)
      if (head !== -1 && shares.isNoisy(tenant, now)) continue
      noisy.splice(index, 1)
      isListed[tenant] = 0
      offer(tenant, head)
    }
  }
  const chooseQuiet = (now: number) => {
    for (let job = oldest.pop(); job !== -1; job = oldest.pop()) {
      const tenant = read(tenantOf, job)
      if (isListed[tenant] === 1 || headOf(tenant) !== job) continue
      if (!isFair || !shares.isNoisy(tenant, now)) return job
      noisy.push(tenant)
      isListed[tenant] = 1
    }
    return -1
  }
  return {
    offer,
    choose(now: number) {
      if (noisy.length > 0) forgive(now)
      const quiet = chooseQuiet(now)
      return quiet !== -1 ? quiet : fewestInFlight(noisy, headOf, shares)
    },
  }
}

/** Among noisy tenants the one with the fewest in flight, then the one whose first is older. @returns that job or -1 */
function fewestInFlight(
  noisy: readonly number[],
  headOf: (tenant: number) => number,
  shares: Shares,
): number {
  let best = -1
  let bestHead = -1
  for (const tenant of noisy) {
    const head = headOf(tenant)
    if (head === -1) continue
    const lead = best === -1 ? -1 : shares.inFlight(tenant) - shares.inFlight(best)
    if (lead > 0 || (lead === 0 && head > bestHead)) continue
    best = tenant
    bestHead = head
  }
  return bestHead
}

type Lines = ReturnType<typeof createLines>
type Shares = ReturnType<typeof createShares>

/** One line of jobs for each tenant, linked by number. */
function createLines(jobs: number, tenants: number) {
  const next = new Int32Array(jobs).fill(-1)
  const heads = new Int32Array(tenants).fill(-1)
  const tails = new Int32Array(tenants).fill(-1)
  return {
    head: (tenant: number) => read(heads, tenant),
    push(tenant: number, job: number) {
      next[job] = -1
      const tail = read(tails, tenant)
      if (tail === -1) heads[tenant] = job
      else next[tail] = job
      tails[tenant] = job
    },
    unshift(tenant: number, job: number) {
      const head = read(heads, tenant)
      next[job] = head
      heads[tenant] = job
      if (head === -1) tails[tenant] = job
    },
    /** Removes the first. @returns the new first, -1 when none is left */
    shift(tenant: number) {
      const head = read(next, read(heads, tenant))
      heads[tenant] = head
      if (head === -1) tails[tenant] = -1
      return head
    },
  }
}

/** Who has how much of the recent processing time, which fades with its age and grows with what is in flight. */
function createShares(tenants: number) {
  const inFlight = new Int32Array(tenants)
  const used = new Float64Array(tenants)
  const touchedAt = new Float64Array(tenants)
  const sentAt = new Float64Array(tenants).fill(-Infinity)
  const all = { inFlight: 0, used: 0, touchedAt: 0 }
  const faded = (before: number, count: number, seconds: number) => {
    const kept = Math.exp(-seconds / MEMORY_SECONDS)
    return before * kept + count * MEMORY_SECONDS * (1 - kept)
  }
  const touch = (tenant: number, now: number) => {
    const seconds = now - read(touchedAt, tenant)
    used[tenant] = faded(read(used, tenant), read(inFlight, tenant), seconds)
    touchedAt[tenant] = now
    all.used = faded(all.used, all.inFlight, now - all.touchedAt)
    all.touchedAt = now
  }
  const change = (tenant: number, now: number, by: 1 | -1) => {
    touch(tenant, now)
    inFlight[tenant] = read(inFlight, tenant) + by
    all.inFlight += by
  }
  return {
    inFlight: (tenant: number) => read(inFlight, tenant),
    sent(tenant: number, now: number) {
      sentAt[tenant] = now
    },
    begin: (tenant: number, now: number) => change(tenant, now, 1),
    end: (tenant: number, now: number) => change(tenant, now, -1),
    isNoisy(tenant: number, now: number) {
      if (now - read(sentAt, tenant) > SILENCE_SECONDS) return false
      const own = read(inFlight, tenant)
      if (own >= NOISY_IN_FLIGHT && own > NOISY_SHARE * all.inFlight) return true
      touch(tenant, now)
      return read(used, tenant) > NOISY_SHARE * all.used
    },
  }
}
