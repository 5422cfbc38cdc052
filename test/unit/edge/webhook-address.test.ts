import { describe, expect, test } from 'vitest'
import { checkWebhookUrl, isRefusedAddress } from '../../../edge/webhook-address.ts'

const PUBLIC = { allowLoopback: false }
const LOCAL = { allowLoopback: true }

describe('addresses', () => {
  test.each([
    ['private', '10.1.2.3'],
    ['private', '172.16.0.1'],
    ['private', '172.31.255.255'],
    ['private', '192.168.1.1'],
    ['loopback', '127.0.0.1'],
    ['loopback', '127.255.255.254'],
    ['unspecified', '0.0.0.0'],
    ['this network', '0.1.2.3'],
    ['link-local, metadata', '169.254.169.254'],
    ['carrier NAT', '100.64.0.1'],
    ['metadata of Alibaba', '100.100.100.200'],
    ['metadata of Azure', '168.63.129.16'],
    ['metadata of Oracle', '192.0.0.192'],
    ['documentation', '192.0.2.1'],
    ['documentation', '198.51.100.9'],
    ['documentation', '203.0.113.9'],
    ['benchmark', '198.18.0.1'],
    ['benchmark', '198.19.255.255'],
    ['6to4 relay', '192.88.99.1'],
    ['multicast', '224.0.0.1'],
    ['reserved', '240.0.0.1'],
    ['broadcast', '255.255.255.255'],
    ['loopback', '::1'],
    ['unspecified', '::'],
    ['mapped', '::ffff:127.0.0.1'],
    ['mapped', '::ffff:7f00:1'],
    ['mapped public', '::ffff:8.8.8.8'],
    ['compatible', '::8.8.8.8'],
    ['NAT64', '64:ff9b::7f00:1'],
    ['local NAT64', '64:ff9b:1::a00:1'],
    ['discard', '100::1'],
    ['Teredo', '2001:0:1234::1'],
    ['benchmark', '2001:2::1'],
    ['documentation', '2001:db8::1'],
    ['documentation', '3fff::1'],
    ['6to4', '2002:7f00:1::1'],
    ['SRv6', '5f00::1'],
    ['unique local', 'fc00::1'],
    ['metadata of AWS', 'fd00:ec2::254'],
    ['link-local', 'fe80::1'],
    ['zone', 'fe80::1%eth0'],
    ['zone', '2606:4700::1%eth0'],
    ['site-local', 'fec0::1'],
    ['multicast', 'ff02::1'],
    ['not an address', 'example.com'],
    ['not an address', ''],
    ['octal', '010.0.0.1'],
    ['short', '127.1'],
    ['two gaps', '2606::1::2'],
  ])('%s: %s is refused', (_, address) => {
    expect(isRefusedAddress(address, PUBLIC)).toBe(true)
  })

  test.each([
    '8.8.8.8',
    '1.1.1.1',
    '172.15.255.255',
    '172.32.0.1',
    '100.63.255.255',
    '100.128.0.1',
    '198.17.255.255',
    '198.20.0.1',
    '223.255.255.255',
    '2606:4700:4700::1111',
    '2a00:1450:4001:81b::200e',
    '2001:4860:4860::8888',
  ])('public %s is taken', (address) => {
    expect(isRefusedAddress(address, PUBLIC)).toBe(false)
  })

  test('the loopback rule opens loopback and nothing else', () => {
    for (const address of ['127.0.0.1', '127.8.8.8', '::1'])
      expect(isRefusedAddress(address, LOCAL)).toBe(false)
    for (const address of ['10.0.0.1', '169.254.169.254', '::ffff:10.0.0.1', '::2', 'fd00::1'])
      expect(isRefusedAddress(address, LOCAL)).toBe(true)
  })
})

describe('URLs', () => {
  test.each([
    ['http://example.com/hook', 'scheme_not_https'],
    ['ftp://example.com/', 'scheme_not_https'],
    ['file:///etc/passwd', 'scheme_not_https'],
    ['not a url', 'not_a_url'],
    ['https://user:secret@example.com/', 'credentials_in_url'],
    ['https://example.com:25/', 'port_not_allowed'],
    ['https://example.com:22/', 'port_not_allowed'],
    [`https://example.com/${'a'.repeat(2048)}`, 'too_long'],
    ['https://localhost/', 'host_not_public'],
    ['https://localhost./', 'host_not_public'],
    ['https://api.localhost/', 'host_not_public'],
    ['https://printer.local/', 'host_not_public'],
    ['https://metadata.google.internal/', 'host_not_public'],
    ['https://METADATA.google.INTERNAL./', 'host_not_public'],
    ['https://intranet/', 'host_not_public'],
    ['https://router.home.arpa/', 'host_not_public'],
    ['https://127.0.0.1/', 'address_not_public'],
    ['https://127.1/', 'address_not_public'],
    ['https://2130706433/', 'address_not_public'],
    ['https://0x7f000001/', 'address_not_public'],
    ['https://0x7f.0.0.1/', 'address_not_public'],
    ['https://0177.0.0.1/', 'address_not_public'],
    ['https://017700000001/', 'address_not_public'],
    ['https://127.0.0.1./', 'address_not_public'],
    ['https://%31%32%37.0.0.1/', 'address_not_public'],
    ['https://①②⑦.0.0.1/', 'address_not_public'],
    ['https://169.254.169.254/latest/meta-data', 'address_not_public'],
    ['https://[::1]/', 'address_not_public'],
    ['https://[::ffff:127.0.0.1]/', 'address_not_public'],
    ['https://[fd00:ec2::254]/', 'address_not_public'],
    ['https://[64:ff9b::a9fe:a9fe]/', 'address_not_public'],
  ])('%s is refused: %s', (text, reason) => {
    expect(checkWebhookUrl(text, PUBLIC)).toEqual({ ok: false, reason })
  })

  test.each([
    'https://example.com/hook',
    'https://example.com:8443/hook?a=b',
    'https://example.com:80/',
    'https://bücher.example/',
    'https://8.8.8.8/',
    'https://[2606:4700:4700::1111]/',
  ])('%s is taken', (text) => {
    expect(checkWebhookUrl(text, PUBLIC).ok).toBe(true)
  })

  test('the loopback rule admits plain http to this machine only', () => {
    for (const text of ['http://127.0.0.1:4000/h', 'http://localhost:9/', 'http://[::1]:80/'])
      expect(checkWebhookUrl(text, LOCAL).ok).toBe(true)
    for (const text of ['http://example.com/', 'https://10.0.0.1/', 'https://169.254.169.254/'])
      expect(checkWebhookUrl(text, LOCAL).ok).toBe(false)
  })

  test('a fragment is dropped, so that it is never sent or stored', () => {
    const checked = checkWebhookUrl('https://example.com/a#secret', PUBLIC)
    expect(checked.ok && checked.url.href).toBe('https://example.com/a')
  })
})
