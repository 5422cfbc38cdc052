import { describe, expect, test } from 'vitest'
import { createFairQueue } from '../../../infra/fleet/fair-queue.ts'

/** A queue with the messages of these tenants, sent in this order at second 0. */
function queueOf(tenants: number[], changes: { isFair?: boolean; closed?: Set<number> } = {}) {
  const { isFair = true, closed = new Set<number>() } = changes
  const tenantOf = Int32Array.from(tenants)
  const isOpen = (job: number) => !closed.has(job)
  const queue = createFairQueue({ tenantOf, tenants: Math.max(...tenants) + 1, isOpen, isFair })
  tenants.forEach((_, job) => queue.show(job, 0, false))
  return queue
}

const times = <T>(count: number, value: T) => Array.from({ length: count }, () => value)

describe('selection', () => {
  test('before anybody has used anything, the oldest goes first', () => {
    const queue = queueOf([2, 0, 1, 0])
    expect([0, 0, 0, 0, 0].map((now) => queue.take(now))).toEqual([0, 1, 2, 3, -1])
  })

  test('quiet tenants go before one with over a tenth of the recent time, then fewest in flight', () => {
    // Tenant 0 works for a while, then 1 sends something new.
    const queue = queueOf([0, 0, 0, 1, 1])
    expect(queue.take(0)).toBe(0)
    expect(queue.take(50)).toBe(3)
    // Both have more than a tenth at 100 and one in flight each: the older; then 1 has fewer.
    expect(queue.take(100)).toBe(1)
    expect(queue.take(100)).toBe(4)
    expect(queue.take(100)).toBe(2)
  })

  test('30 in flight and over a tenth of all make noisy at once', () => {
    const noisy = queueOf([...times(31, 0), 1])
    for (let job = 0; job < 30; job++) expect(noisy.take(0)).toBe(job)
    expect(noisy.take(0)).toBe(31)
    const calm = queueOf([...times(30, 0), 1])
    for (let job = 0; job < 29; job++) expect(calm.take(0)).toBe(job)
    expect(calm.take(0)).toBe(29)
  })

  test('who has sent nothing for five minutes is quiet again', () => {
    const queue = queueOf([0, 0, 0, 1])
    expect(queue.take(0)).toBe(0)
    expect(queue.take(299)).toBe(3)
    expect(queue.take(301)).toBe(1)
  })

  test('what comes back keeps its age, and what has ended is passed over', () => {
    const queue = queueOf([0, 1, 0], { isFair: false, closed: new Set([1]) })
    expect(queue.take(0)).toBe(0)
    queue.release(0, 10)
    queue.show(0, 10, true)
    expect([10, 10, 10].map((now) => queue.take(now))).toEqual([0, 2, -1])
  })
})
