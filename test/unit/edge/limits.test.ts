import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { createRateLimiter } from '../../../edge/limits.ts'

function startClock() {
  let at = Date.UTC(2026, 0, 1)
  return { now: () => new Date(at), advance: (ms: number) => void (at += ms) }
}

describe('the rate limiter', () => {
  test('lets a full minute through in a burst and then refuses', () => {
    const limiter = createRateLimiter(startClock().now)
    const verdicts = Array.from({ length: 61 }, () => limiter.take('key_a', 60))
    expect(verdicts.slice(0, 60).every(({ allowed }) => allowed)).toBe(true)
    expect(verdicts.map(({ remaining }) => remaining).slice(0, 3)).toEqual([59, 58, 57])
    expect(verdicts[60]).toEqual({ allowed: false, remaining: 0, resetSeconds: 1 })
  })

  test('gives the allowance back evenly', () => {
    const clock = startClock()
    const limiter = createRateLimiter(clock.now)
    for (let count = 0; count < 60; count++) limiter.take('key_a', 60)
    clock.advance(1_000)
    expect(limiter.take('key_a', 60).allowed).toBe(true)
    expect(limiter.take('key_a', 60).allowed).toBe(false)
    clock.advance(60_000)
    expect(limiter.take('key_a', 60).remaining).toBe(59)
  })

  test('states a wait after which the next request is allowed', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 1_000 }),
        fc.array(fc.integer({ min: 0, max: 5_000 }), { maxLength: 50 }),
        (perMinute, pauses) => {
          const clock = startClock()
          const limiter = createRateLimiter(clock.now)
          for (const pause of pauses) {
            clock.advance(pause)
            const verdict = limiter.take('key_a', perMinute)
            if (verdict.allowed) continue
            clock.advance(verdict.resetSeconds * 1000)
            expect(limiter.take('key_a', perMinute).allowed).toBe(true)
          }
        },
      ),
    )
  })

  test('never lets more than a burst and its refill through', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 120 }),
        fc.array(fc.integer({ min: 0, max: 3_000 }), { maxLength: 300 }),
        (perMinute, pauses) => {
          const clock = startClock()
          const limiter = createRateLimiter(clock.now)
          let elapsedMs = 0
          let allowed = 0
          for (const pause of pauses) {
            clock.advance(pause)
            elapsedMs += pause
            if (limiter.take('key_a', perMinute).allowed) allowed += 1
          }
          expect(allowed).toBeLessThanOrEqual(perMinute + (elapsedMs / 60_000) * perMinute + 1e-6)
        },
      ),
    )
  })

  test('counts each key by itself', () => {
    const limiter = createRateLimiter(startClock().now)
    expect(limiter.take('key_a', 1).allowed).toBe(true)
    expect(limiter.take('key_a', 1).allowed).toBe(false)
    expect(limiter.take('key_b', 1).allowed).toBe(true)
  })

  test('holds a bounded number of keys and does not forget the newest', () => {
    const limiter = createRateLimiter(startClock().now)
    for (let index = 0; index < 25_000; index++) limiter.take(`key_${index}`, 1)
    expect(limiter.take('key_24999', 1).allowed).toBe(false)
  })
})

describe('a look at the rate limiter', () => {
  test('says when the next request is allowed and counts nothing', () => {
    const clock = startClock()
    const limiter = createRateLimiter(clock.now)
    for (let count = 0; count < 60; count++) {
      expect(limiter.waitSeconds('key_a', 60)).toBe(0)
      limiter.take('key_a', 60)
    }
    for (let count = 0; count < 5; count++) expect(limiter.waitSeconds('key_a', 60)).toBe(1)
    clock.advance(1_000)
    expect(limiter.waitSeconds('key_a', 60)).toBe(0)
    expect(limiter.take('key_a', 60).allowed).toBe(true)
  })
})
