import { describe, expect, test } from 'vitest'
import { parseInstant } from '../../billing/command-line.ts'
import { defineCommand } from '../../infra/admin/command.ts'
import type { Option } from '../../infra/admin/command.ts'
import * as options from '../../infra/admin/options.ts'
import { showUsd, toJson, toText } from '../../infra/admin/output.ts'
import { admin } from '../support/admin.ts'

const read = <T>(option: Option<T>, text: string) => option.read(text)?.value

describe('options', () => {
  test('amounts are exact to the micro-USD, and nothing else is an amount', () => {
    const usd = options.usd('')
    expect(read(usd, '25')).toBe(25_000_000n)
    expect(read(usd, '0.0135')).toBe(13_500n)
    expect(read(usd, '0.000001')).toBe(1n)
    // In micro-USD no float has this value.
    expect(read(usd, '9007199254.740993')).toBe(9_007_199_254_740_993n)
    for (const text of ['0', '-1', '1e3', '0.0000001', '1,5', '$5', '', ' 1', 'NaN'])
      expect(read(usd, text), text).toBeUndefined()
    expect(read(options.usdOrZero(''), '0')).toBe(0n)
    expect(read(options.usdOrZero(''), '-0.01')).toBeUndefined()
  })

  test.each([
    ['10%', 1000],
    ['12.5%', 1250],
    ['0.01', 1],
    ['100', 10_000],
    ['100.01%', undefined],
    ['-1%', undefined],
    ['1.005%', undefined],
  ])('%s is %s basis points', (text, basisPoints) => {
    expect(read(options.percent(''), text)).toBe(basisPoints)
  })

  test.each([
    ['30m', 1_800_000],
    ['12h', 43_200_000],
    ['90d', 7_776_000_000],
    ['0d', undefined],
    ['90', undefined],
    ['1w', undefined],
    ['99999999d', undefined],
  ])('%s lasts %s ms', (text, lengthMs) => {
    expect(read(options.duration(''), text)).toBe(lengthMs)
  })

  test.each([
    ['2026-11-01', '2026-11-01T00:00:00.000Z'],
    ['2026-11-01T09:00:00+02:00', '2026-11-01T07:00:00.000Z'],
    // Without a zone it would be another instant on each machine.
    ['2026-11-01T09:00:00', undefined],
    ['2026-02-30', undefined],
    ['2026-02-30T00:00:00Z', undefined],
    ['2026-13-01', undefined],
    ['tomorrow', undefined],
  ])('%s is the instant %s', (text, instant) => {
    expect(parseInstant(text)?.toISOString()).toBe(instant)
  })

  test('lists are read whole or not at all', () => {
    expect(read(options.indexes(''), '2,0,2')).toEqual([0, 2])
    expect(read(options.indexes(''), '1,')).toBeUndefined()
    expect(read(options.someOf(['a', 'b'], ''), 'b,a')).toEqual(['a', 'b'])
    expect(read(options.someOf(['a', 'b'], ''), 'a,c')).toBeUndefined()
    expect(read(options.pairs(''), 'project=spring,a.b-c=1')).toEqual({
      project: 'spring',
      'a.b-c': '1',
    })
    expect(read(options.pairs(''), 'project=spring,')).toBeUndefined()
  })

  test('none takes a limit away, which is not the same as not naming it', () => {
    const limit = options.maybe(options.orNone(options.integer('', 0)))
    expect(limit.read('none')).toEqual({ value: null })
    expect(limit.read('0')).toEqual({ value: 0 })
    expect(limit.absent).toEqual({ value: undefined })
    expect(options.given({ a: undefined, b: null, c: 0 })).toEqual({ b: null, c: 0 })
  })
})

test('every broken rule of a line is named at once, with its option', () => {
  const command = defineCommand({
    name: 'thing make',
    help: '',
    args: { id: options.text('ID', 'its id') },
    options: { usd: options.usd('how much'), size: options.oneOf(['small', 'large'], 'how large') },
    run: () => Promise.resolve([]),
  })
  expect(() => command.read(['--usd', '1.5e3', 'a', 'b'])).toThrow(
    `"b" is one argument too many
--usd must be US dollars above 0, such as 25 or 0.015, not "1.5e3"
--size small|large is missing: how large`,
  )
  expect(() => command.read(['a', '--colour', 'red'])).toThrow("Unknown option '--colour'.")
})

describe('output', () => {
  test('money has two to six decimals for people, six for machines, and is never rounded', () => {
    expect(showUsd(25_000_000n)).toBe('25.00')
    expect(showUsd(13_500n)).toBe('0.0135')
    expect(showUsd(-1n)).toBe('-0.000001')
    expect(showUsd(9_007_199_254_740_993_000_100n)).toBe('9007199254740993.0001')
    expect(JSON.parse(toJson({ spent: 9_007_199_254_740_993n }))).toEqual({
      spent: '9007199254.740993',
    })
  })

  test('tables keep their columns, and what is not there is a dash', () => {
    const rows = [
      { name: 'A', month_limit: 1_500_000n, at: null },
      { name: 'Longer', month_limit: 10_000_000n, at: new Date('2026-11-01T00:00:00Z') },
    ]
    expect(toText(rows)).toBe(`name    month limit  at
A              1.50  -
Longer        10.00  2026-11-01T00:00:00Z`)
    expect(toText({ id: 'x', tags: { a: '1', b: '2' }, keys: [] })).toBe(`id    x
tags  a=1,b=2

keys
  none`)
    expect(toText([])).toBe('None.')
  })
})

describe('help', () => {
  test('is there for all, for a noun and for a verb, and needs no database', async () => {
    const all = await admin({}, '--help')
    expect(all.code).toBe(0)
    for (const name of ['org create', 'key move KEY', 'refund JOB', 'write-off'])
      expect(all.out).toContain(`  ${name} `)
    const noun = await admin({}, 'key', '--help')
    expect(noun.out).toContain('npm run admin -- key create')
    expect(noun.out).toContain('npm run admin -- key revoke KEY')
    const verb = await admin({}, 'key', 'create', '--help')
    expect(verb.out).toContain('--expires-in SPAN')
    expect(verb.out).not.toContain('key revoke')
  })

  test.each([
    [[], 'Usage: npm run admin'],
    [['org'], 'org needs a verb: create, list, show'],
    [['org', 'lst'], 'org has no verb "lst": create, list, show'],
    [['orgs', 'list'], 'There is no "orgs".'],
    [['org', 'list', '--jsn'], "Unknown option '--jsn'."],
    [['org', 'create', '--name', 'A'], '--mode prepaid|postpaid|internal is missing: how it pays'],
    [['refund', '--source', 'x'], 'JOB is missing: id'],
  ])('%j is bad usage', async (typed, problem) => {
    const answer = await admin({}, ...typed)
    expect([answer.code, answer.out]).toEqual([2, ''])
    expect(answer.err).toContain(problem)
  })
})
