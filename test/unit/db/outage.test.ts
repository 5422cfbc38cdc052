import { describe, expect, test } from 'vitest'
import { isOutage, isOutcomeUnknown } from '../../../db/outage.ts'

const failed = (code: string) =>
  new Error('query failed', { cause: Object.assign(new Error('socket'), { code }) })

describe('a statement that failed', () => {
  test.each([
    'CONNECTION_CLOSED',
    'CONNECTION_DESTROYED',
    'CONNECTION_SILENT',
    'ECONNRESET',
    'EPIPE',
    'ETIMEDOUT',
    '57P01',
    '08006',
  ])('with %s may have been done, and may be tried again', (code) => {
    expect([isOutage(failed(code)), isOutcomeUnknown(failed(code))]).toEqual([true, true])
  })

  test.each([
    'CONNECT_TIMEOUT',
    'ECONNREFUSED',
    'ENOTFOUND',
    'EAI_AGAIN',
    '53100',
    '53300',
    '57P03',
    '25006',
    '40P01',
    '57014',
  ])('with %s was not done, and may be tried again', (code) => {
    expect([isOutage(failed(code)), isOutcomeUnknown(failed(code))]).toEqual([true, false])
  })

  test.each(['23505', '23514', 'P0001', 'GP402', 'ENOENT', 'EACCES', ''])(
    'with "%s" would fail again',
    (code) => {
      expect([isOutage(failed(code)), isOutcomeUnknown(failed(code))]).toEqual([false, false])
    },
  )

  test('on Workers is told from its sentence', () => {
    const lost = new Error('Network connection lost.')
    const refused = new Error('proxy request failed, cannot connect to the specified address')
    expect([isOutage(lost), isOutcomeUnknown(lost)]).toEqual([true, true])
    expect([isOutage(refused), isOutcomeUnknown(refused)]).toEqual([true, false])
    expect([isOutage('a text'), isOutcomeUnknown(undefined)]).toEqual([false, false])
  })
})
