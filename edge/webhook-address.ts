/** Why a webhook address is refused; goes to callers and to the delivery log. */
export type AddressRefusal =
  | 'not_a_url'
  | 'too_long'
  | 'scheme_not_https'
  | 'credentials_in_url'
  | 'port_not_allowed'
  | 'host_not_public'
  | 'address_not_public'

/** What each refusal means, as the end of a sentence about the URL. */
export const ADDRESS_REFUSALS: Readonly<Record<AddressRefusal, string>> = {
  not_a_url: 'is not a URL',
  too_long: 'is longer than 2048 characters',
  scheme_not_https: 'must begin with https://',
  credentials_in_url: 'must not contain a user name or password',
  port_not_allowed: 'must use port 443, 80 or one from 1024 on',
  host_not_public: 'must name a host of the public internet',
  address_not_public: 'must name an address of the public internet',
}

/** Longer URLs break receivers, proxies and logs. */
export const MAX_URL_CHARACTERS = 2048
/** Ports below this one belong to services that are not web servers, mail above all; 80 and 443 excepted. */
const FIRST_OPEN_PORT = 1024

/** Names that resolve inside a machine or a private network, by standard or by habit. */
const PRIVATE_SUFFIXES = [
  'localhost',
  'local',
  'internal',
  'intranet',
  'private',
  'corp',
  'home',
  'lan',
  'home.arpa',
  'localdomain',
  'onion',
  'invalid',
]

/**
 * IPv4 blocks that are not the public internet: the special-purpose registry of RFC 6890 and, last, the
 * one public address that a cloud answers its machines' metadata on (Azure).
 */
const REFUSED_V4: readonly [block: string, bits: number][] = [
  ['0.0.0.0', 8],
  ['10.0.0.0', 8],
  ['100.64.0.0', 10],
  ['127.0.0.0', 8],
  ['169.254.0.0', 16],
  ['172.16.0.0', 12],
  ['192.0.0.0', 24],
  ['192.0.2.0', 24],
  ['192.31.196.0', 24],
  ['192.52.193.0', 24],
  ['192.88.99.0', 24],
  ['192.168.0.0', 16],
  ['192.175.48.0', 24],
  ['198.18.0.0', 15],
  ['198.51.100.0', 24],
  ['203.0.113.0', 24],
  ['224.0.0.0', 4],
  ['240.0.0.0', 4],
  ['168.63.129.16', 32],
]

/**
 * Blocks refused inside 2000::/3, the only IPv6 space that is global unicast. Everything outside it is
 * refused without a list: loopback, unique local, link-local, multicast, IPv4-mapped, NAT64, SRv6.
 */
const REFUSED_V6: readonly [block: string, bits: number][] = [
  // Protocol assignments, among them Teredo, benchmarking and ORCHID.
  ['2001::', 23],
  ['2001:db8::', 32],
  // 6to4 carries an IPv4 address that nobody would have checked.
  ['2002::', 16],
  ['2620:4f:8000::', 48],
  ['3fff::', 20],
]

/**
 * Decides by the text alone whether events may be sent to a URL. A host name that passes must still be
 * checked by `isRefusedAddress` at connect time, address by address.
 *
 * @param rules.allowLoopback admits loopback hosts, over plain http too and on any port: for a gateway
 *   that serves one machine
 */
export function checkWebhookUrl(
  text: string,
  rules: { allowLoopback: boolean },
): { ok: true; url: URL } | { ok: false; reason: AddressRefusal } {
  if (text.length > MAX_URL_CHARACTERS) return { ok: false, reason: 'too_long' }
  if (!URL.canParse(text)) return { ok: false, reason: 'not_a_url' }
  const url = new URL(text)
  if (url.protocol !== 'https:' && url.protocol !== 'http:')
    return { ok: false, reason: 'scheme_not_https' }
  if (url.username !== '' || url.password !== '') return { ok: false, reason: 'credentials_in_url' }
  url.hash = ''
  if (rules.allowLoopback && isLoopbackHost(url.hostname)) return { ok: true, url }
  if (url.protocol !== 'https:') return { ok: false, reason: 'scheme_not_https' }
  const port = url.port === '' ? 443 : Number(url.port)
  if (port < FIRST_OPEN_PORT && port !== 443 && port !== 80)
    return { ok: false, reason: 'port_not_allowed' }
  const reason = refuseHost(url.hostname)
  return reason === null ? { ok: true, url } : { ok: false, reason }
}

/**
 * Whether an IP address may not be connected to. Text that is no address is refused.
 *
 * @param address as a resolver or a socket prints it; an IPv6 zone (`%eth0`) is refused
 */
export function isRefusedAddress(address: string, rules: { allowLoopback: boolean }): boolean {
  if (rules.allowLoopback && isLoopbackAddress(address)) return false
  const v4 = parseV4(address)
  if (v4 !== null)
    return REFUSED_V4.some(([block, bits]) => isInBlock(v4, parseV4(block), bits, 32))
  const v6 = parseV6(address)
  if (v6 === null || v6 >> 125n !== 1n) return true
  return REFUSED_V6.some(([block, bits]) => isInBlock(v6, parseV6(block), bits, 128))
}

/** `hostname` of a WHATWG URL: numeric forms such as 0x7f.1 or 2130706433 arrive as dotted quads. */
function refuseHost(hostname: string): AddressRefusal | null {
  const host = hostname.replace(/\.$/, '')
  if (host.startsWith('[')) {
    return isRefusedAddress(host.slice(1, -1), { allowLoopback: false })
      ? 'address_not_public'
      : null
  }
  if (parseV4(host) !== null)
    return isRefusedAddress(host, { allowLoopback: false }) ? 'address_not_public' : null
  // One label alone is a name of the local network or a search-domain lookup.
  if (!host.includes('.')) return 'host_not_public'
  if (PRIVATE_SUFFIXES.some((suffix) => host === suffix || host.endsWith(`.${suffix}`)))
    return 'host_not_public'
  // A last label of digits is a number that no parser made an address of.
  return /(^|\.)(0x[0-9a-f]*|[0-9]+)$/.test(host) ? 'host_not_public' : null
}

function isLoopbackHost(hostname: string): boolean {
  if (hostname === 'localhost') return true
  return isLoopbackAddress(hostname.replace(/^\[|\]$/g, ''))
}

function isLoopbackAddress(address: string): boolean {
  const v4 = parseV4(address)
  if (v4 !== null) return v4 >> 24n === 127n
  return parseV6(address) === 1n
}

function isInBlock(value: bigint, block: bigint | null, bits: number, width: number): boolean {
  const shift = BigInt(width - bits)
  return block !== null && value >> shift === block >> shift
}

/** Strict dotted quad; null for anything else. */
function parseV4(text: string): bigint | null {
  if (!/^\d{1,3}(\.\d{1,3}){3}$/.test(text)) return null
  let value = 0n
  for (const part of text.split('.')) {
    if (Number(part) > 255 || (part.length > 1 && part.startsWith('0'))) return null
    value = (value << 8n) | BigInt(part)
  }
  return value
}

/** IPv6 text, compressed or not, with or without a dotted tail; null for anything else, zones too. */
function parseV6(text: string): bigint | null {
  const dotted = /^(.*:)(\d{1,3}(?:\.\d{1,3}){3})$/.exec(text)
  let source = text
  if (dotted !== null) {
    const tail = parseV4(dotted[2] ?? '')
    if (tail === null) return null
    source = `${dotted[1]}${(tail >> 16n).toString(16)}:${(tail & 0xffffn).toString(16)}`
  }
  const halves = source.split('::')
  if (halves.length > 2) return null
  const groups = halves.map((half) => (half === '' ? [] : half.split(':')))
  const [head = [], tail = []] = groups
  const missing = 8 - head.length - tail.length
  if (halves.length === 1 ? missing !== 0 : missing < 1) return null
  const all = [...head, ...Array<string>(missing).fill('0'), ...tail]
  if (!all.every((group) => /^[0-9a-f]{1,4}$/i.test(group))) return null
  return all.reduce((value, group) => (value << 16n) | BigInt(`0x${group}`), 0n)
}
