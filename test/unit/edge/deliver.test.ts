import { describe, expect, test } from 'vitest'
import { RETRY_DELAYS_SECONDS, judgeAttempt, parseRetryAfter } from '../../../edge/deliver.ts'
import type { SendResult } from '../../../edge/deliver.ts'

const AT = new Date('2026-11-24T00:00:00Z')

function answer(statusCode: number, retryAfterSeconds: number | null = null): SendResult {
  return { ok: true, statusCode, retryAfterSeconds }
}

function delaySeconds(result: SendResult, attempt: number, random = 0): number | null {
  const verdict = judgeAttempt(result, { attempt, at: AT, random })
  if (verdict.state !== 'pending') return null
  return (verdict.nextAttemptAt.getTime() - AT.getTime()) / 1000
}

function pauseSeconds(result: SendResult, attempt = 1): number | null {
  const verdict = judgeAttempt(result, { attempt, at: AT, random: 0.5 })
  if (verdict.state === 'delivered' || verdict.deferUntil === null) return null
  return (verdict.deferUntil.getTime() - AT.getTime()) / 1000
}

describe('judgeAttempt', () => {
  test('the whole schedule is ten attempts over 75.6 hours, and then it is over', () => {
    const waits = RETRY_DELAYS_SECONDS.map((_, index) => delaySeconds(answer(500), index + 1))
    expect(waits).toEqual([5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400, null])
    expect(RETRY_DELAYS_SECONDS.reduce((sum, wait) => sum + wait, 0) / 3600).toBeCloseTo(75.585, 2)
    expect(judgeAttempt(answer(500), { attempt: 10, at: AT, random: 0 })).toEqual({
      state: 'failed',
      isGone: false,
      deferUntil: null,
    })
  })

  test('jitter adds up to a tenth and never takes away', () => {
    expect(delaySeconds(answer(500), 2, 0.5)).toBe(315)
    expect(delaySeconds(answer(500), 2, 0.999)).toBeLessThan(330)
  })

  test.each([200, 201, 202, 204, 299])('%i is success', (status) => {
    expect(judgeAttempt(answer(status), { attempt: 1, at: AT, random: 0 })).toEqual({
      state: 'delivered',
    })
  })

  test.each([100, 301, 302, 303, 307, 308, 304, 400, 401, 404, 413, 500, 503])(
    '%i is a failure that is tried again',
    (status) => {
      expect(delaySeconds(answer(status), 1)).toBeGreaterThanOrEqual(5)
    },
  )

  test('no answer is a failure that is tried again', () => {
    for (const error of ['timeout', 'dns_failed', 'address_not_public'] as const)
      expect(delaySeconds({ ok: false, error }, 1)).toBe(5)
  })

  test('410 ends the delivery and its endpoint', () => {
    expect(judgeAttempt(answer(410), { attempt: 1, at: AT, random: 0 })).toEqual({
      state: 'failed',
      isGone: true,
      deferUntil: null,
    })
  })

  test.each([429, 502, 503, 504])(
    '%i pauses the endpoint for a minute at any attempt',
    (status) => {
      for (const attempt of [1, 3, 9, 10]) expect(pauseSeconds(answer(status), attempt)).toBe(60)
      expect(delaySeconds(answer(status), 1)).toBe(60)
      expect(delaySeconds(answer(status), 3)).toBe(1800)
    },
  )

  test.each([301, 404, 410, 500])('%i pauses nothing', (status) => {
    expect(pauseSeconds(answer(status), 1)).toBeNull()
  })

  test('Retry-After is obeyed up to a day, and only from overloaded receivers', () => {
    expect([pauseSeconds(answer(429, 600)), delaySeconds(answer(429, 600), 1)]).toEqual([600, 600])
    expect([pauseSeconds(answer(429, 600), 3), delaySeconds(answer(429, 600), 3)]).toEqual([
      600, 1800,
    ])
    expect(pauseSeconds(answer(429, 7))).toBe(60)
    expect(pauseSeconds(answer(503, 1e9))).toBe(86_400)
    expect(delaySeconds(answer(503, 1e9), 1)).toBe(86_400)
    expect([pauseSeconds(answer(500, 600)), delaySeconds(answer(500, 600), 1)]).toEqual([null, 5])
  })
})

test('Retry-After is read as seconds or as a date; nonsense is none', () => {
  expect(parseRetryAfter('120', AT)).toBe(120)
  expect(parseRetryAfter('Tue, 24 Nov 2026 00:01:00 GMT', AT)).toBe(60)
  expect(parseRetryAfter('Tue, 24 Nov 2020 00:01:00 GMT', AT)).toBe(0)
  for (const value of [null, '', 'soon', '-5x', '99999999999999999999'])
    expect(parseRetryAfter(value, AT)).toBe(null)
})
