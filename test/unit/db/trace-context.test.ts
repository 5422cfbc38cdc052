import { describe, expect, test } from 'vitest'
import {
  TRACEPARENT_CHARACTERS,
  parseTraceparent,
  toTraceparent,
} from '../../../db/trace-context.ts'

const TRACE = '4bf92f3577b34da6a3ce929d0e0e4736'
const SPAN = '00f067aa0ba902b7'

describe('traceparent', () => {
  test.each([
    [`00-${TRACE}-${SPAN}-01`, true],
    [`00-${TRACE}-${SPAN}-00`, false],
    // Of the flags only the lowest bit has a meaning here.
    [`00-${TRACE}-${SPAN}-03`, true],
    // A later version may say more behind what this one knows.
    [`01-${TRACE}-${SPAN}-01-what-comes-later`, true],
    [`01-${TRACE}-${SPAN}-01`, true],
  ])('%s is one', (text, isSampled) => {
    expect(parseTraceparent(text)).toEqual({ traceId: TRACE, spanId: SPAN, isSampled })
  })

  test.each([
    ['nothing', undefined],
    ['an empty one', ''],
    ['words', 'trace me'],
    ['version ff', `ff-${TRACE}-${SPAN}-01`],
    ['no trace id', `00-${'0'.repeat(32)}-${SPAN}-01`],
    ['no span id', `00-${TRACE}-${'0'.repeat(16)}-01`],
    ['capitals', `00-${TRACE.toUpperCase()}-${SPAN}-01`],
    ['a short trace id', `00-${TRACE.slice(1)}-${SPAN}-01`],
    ['something behind version 00', `00-${TRACE}-${SPAN}-01-more`],
    ['something behind that is no part', `01-${TRACE}-${SPAN}-01more`],
    ['a line break', `00-${TRACE}-${SPAN}-01\n`],
    ['a list of two', `00-${TRACE}-${SPAN}-01, 00-${TRACE}-${SPAN}-01`],
  ])('%s is none', (_name, text) => {
    expect(parseTraceparent(text)).toBeNull()
  })

  test('what is written is read again, and fits into its column', () => {
    const context = { traceId: TRACE, spanId: SPAN, isSampled: false }
    const text = toTraceparent(context)
    expect(text).toHaveLength(TRACEPARENT_CHARACTERS)
    expect(parseTraceparent(text)).toEqual(context)
  })
})
