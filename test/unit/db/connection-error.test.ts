import { describe, expect, test } from 'vitest'
import { isOutcomeUnknown, isUnreachable } from '../../../db/connection-error.ts'

const failed = (code: string) =>
  new Error('query failed', { cause: Object.assign(new Error('socket'), { code }) })

describe('a statement that failed', () => {
  test.each(['CONNECTION_CLOSED', 'CONNECTION_DESTROYED', 'ECONNRESET', 'EPIPE', '57P01', '08006'])(
    'with %s may have been done',
    (code) => {
      expect(isUnreachable(failed(code))).toBe(true)
      expect(isOutcomeUnknown(failed(code))).toBe(true)
    },
  )

  test.each(['CONNECT_TIMEOUT', 'ECONNREFUSED', 'ENOTFOUND', '53300', '57P03'])(
    'with %s never reached the database',
    (code) => {
      expect(isUnreachable(failed(code))).toBe(true)
      expect(isOutcomeUnknown(failed(code))).toBe(false)
    },
  )

  test.each(['23505', '57014', 'GP402', '40001', ''])('with "%s" was answered', (code) => {
    expect(isUnreachable(failed(code))).toBe(false)
    expect(isOutcomeUnknown(failed(code))).toBe(false)
  })

  test('on Workers is told from its sentence', () => {
    expect(isOutcomeUnknown(new Error('Network connection lost.'))).toBe(true)
    const refused = new Error('proxy request failed, cannot connect to the specified address')
    expect([isUnreachable(refused), isOutcomeUnknown(refused)]).toEqual([true, false])
    expect(isUnreachable('a text')).toBe(false)
  })
})
