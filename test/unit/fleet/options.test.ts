import { describe, expect, test } from 'vitest'
import { readArrivals } from '../../../infra/fleet/arrivals-file.ts'
import { readOptions } from '../../../infra/fleet/options.ts'

describe('file of arrivals', () => {
  test('is read in plain columns, in any order', () => {
    expect(readArrivals('seconds,tenant,size\r\n12.5,acme,large\n3,b@c.d,small\n')).toEqual([
      { seconds: 12.5, tenant: 'acme', size: 2 },
      { seconds: 3, tenant: 'b@c.d', size: 0 },
    ])
  })

  test.each([
    ['', 'line 1: must be the header seconds,tenant,size'],
    ['seconds,tenant,size\n', 'line 2: there must be at least one job'],
    ['seconds,tenant,size\n1,a', 'line 2: must have 3 fields (seconds,tenant,size), not 2'],
    [
      'seconds,tenant,size\n1,a,small\n-1,a,small',
      'line 3: seconds must be a number from 0, such as 12.5, not "-1"',
    ],
    [
      'seconds,tenant,size\n1,a b,small',
      'line 2: tenant must be 1 to 128 letters, digits or _.@:-, not "a b"',
    ],
    [
      'seconds,tenant,size\n1,a,huge',
      'line 2: size must be one of small, medium, large, not "huge"',
    ],
    ['seconds,tenant,size\n1,a,small\n\n', 'line 3: must have 3 fields'],
  ])('%j is refused by line and rule', (text, message) => {
    expect(() => readArrivals(text)).toThrow(message)
  })
})

describe('command line', () => {
  test.each([
    ['--gpus 4', '--gpus must be such as 0..16'],
    ['--gpus 5..4', '--gpus must be such as 0..16'],
    ['--spot 1.5', '--spot must be a number from 0 to 1, not "1.5"'],
    ['--tenants 2.5', '--tenants must be a whole number, not "2.5"'],
    ['--flood 200', '--flood must be jobs and hour'],
    ['--floor 8-18=4', '--floor must be such as 08:00-18:00=4'],
    ['--mix 1,2', '--mix must be 3 shares'],
    ['--arrivals day.csv --rate 5', '--rate and --tenants: day.csv says it all'],
    ['--finish-within 120', '--finish-within must be a number from 0 to 119'],
    ['--nonsense', "Unknown option '--nonsense'"],
  ])('%s is refused', (typed, message) => {
    expect(() => readOptions(typed.split(' '))).toThrow(message)
  })

  test('floors and floods are read', () => {
    const options = readOptions('--floor 08:00-18:30=4 --flood 200@1.5 --flood 7@2'.split(' '))
    expect(options?.floors).toEqual([
      { days: [0, 1, 2, 3, 4, 5, 6], fromMinute: 480, toMinute: 1_110, gpus: 4 },
    ])
    expect(options?.floods).toEqual([
      { jobs: 200, atSeconds: 5_400 },
      { jobs: 7, atSeconds: 7_200 },
    ])
  })

  test('help is answered with nothing to do', () => {
    expect(readOptions(['--help'])).toBeNull()
  })
})
