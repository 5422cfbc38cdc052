import { describe, expect, test } from 'vitest'
import { clientNetwork } from '../../../edge/client-address.ts'

describe('where a call comes from', () => {
  test.each([
    ['192.0.2.7', '192.0.2.7'],
    ['::ffff:192.0.2.7', '192.0.2.7'],
    ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2'],
    ['2001:DB8:1:2::6', '2001:db8:1:2'],
    ['2001:db8::6', '2001:db8:0:0'],
    ['2001::a:b:c:d:e:f', '2001:0:a:b'],
    ['::1', '0:0:0:0'],
    ['fe80::', 'fe80:0:0:0'],
  ])('%s counts as %s', (address, network) => {
    expect(clientNetwork(address, null)?.replace(/^:/, '0:')).toBe(network)
  })

  test('is the socket, whatever a header says that nobody named', () => {
    expect(clientNetwork('192.0.2.7', null)).toBe('192.0.2.7')
    expect(clientNetwork(undefined, null)).toBeUndefined()
  })

  test('is the last entry of the header that the operator named, which the proxy wrote', () => {
    expect(clientNetwork('10.0.0.1', '198.51.100.1, 192.0.2.7')).toBe('192.0.2.7')
    expect(clientNetwork('10.0.0.1', ' 2001:db8:1:2::9 ')).toBe('2001:db8:1:2')
    expect(clientNetwork('10.0.0.1', '')).toBe('10.0.0.1')
  })
})
