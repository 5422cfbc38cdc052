import { beforeEach, describe, expect, test } from 'vitest'
import { createLostCalls } from '../../../edge/lost-calls.ts'
import type { LostCalls } from '../../../edge/lost-calls.ts'

let at: number
let calls: LostCalls
beforeEach(() => {
  at = Date.UTC(2026, 0, 1)
  calls = createLostCalls(() => new Date(at))
})

const LOST = { keyId: 'key_a', requestHash: 'hash', jobId: 'job_1' }

describe('a lost call', () => {
  test('is taken up by an equal one of the same key', () => {
    calls.lose(LOST)
    expect(calls.reclaim('key_a', 'hash')).toBe('job_1')
  })

  test('is taken up once: the next equal call is a second order', () => {
    calls.lose(LOST)
    calls.reclaim('key_a', 'hash')
    expect(calls.reclaim('key_a', 'hash')).toBeNull()
  })

  test('is not taken up by another key or another order', () => {
    calls.lose(LOST)
    expect(calls.reclaim('key_b', 'hash')).toBeNull()
    expect(calls.reclaim('key_a', 'other')).toBeNull()
    expect(calls.reclaim('key_a', 'hash')).toBe('job_1')
  })

  test('is forgotten after twenty seconds', () => {
    calls.lose(LOST)
    at += 20_000
    expect(calls.reclaim('key_a', 'hash')).toBeNull()
  })

  test('is known of its key until it is taken up or forgotten', () => {
    calls.lose(LOST)
    expect([calls.has('key_a'), calls.has('key_')]).toEqual([true, false])
    calls.reclaim('key_a', 'hash')
    expect(calls.has('key_a')).toBe(false)
    calls.lose(LOST)
    at += 20_000
    expect(calls.has('key_a')).toBe(false)
  })

  test('can be lost again', () => {
    calls.lose(LOST)
    calls.reclaim('key_a', 'hash')
    calls.lose(LOST)
    expect(calls.reclaim('key_a', 'hash')).toBe('job_1')
  })

  test('is dropped when many newer ones are remembered', () => {
    calls.lose(LOST)
    for (let index = 0; index < 5_000; index++) {
      calls.lose({ ...LOST, requestHash: `hash ${index}`, jobId: `job ${index}` })
    }
    expect(calls.reclaim('key_a', 'hash')).toBeNull()
    expect(calls.reclaim('key_a', 'hash 4999')).toBe('job 4999')
  })
})
