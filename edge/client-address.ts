/**
 * Whose failures are counted together: an IPv4 address, or the /64 network of an IPv6 one, of which one caller
 * usually has all.
 *
 * @param connection the peer's address as the socket prints it
 * @param forwarded the header that the operator named, as it was sent; null when none is named or sent. Its last
 *   entry counts, which the nearest proxy wrote: what stands before it any caller can make up
 */
export function clientNetwork(
  connection: string | undefined,
  forwarded: string | null,
): string | undefined {
  const entry = forwarded?.split(',').at(-1)?.trim()
  const address = entry === undefined || entry === '' ? connection : entry
  return address === undefined ? undefined : networkOf(address)
}

function networkOf(address: string): string {
  const dotted = /(?:^|::ffff:)(\d{1,3}(?:\.\d{1,3}){3})$/i.exec(address)
  if (dotted?.[1] !== undefined) return dotted[1]
  const [head = '', tail] = address.toLowerCase().split('::')
  const groups = head.split(':')
  if (tail !== undefined) {
    const rest = tail === '' ? 0 : tail.split(':').length
    for (let zeros = 8 - rest - groups.length; zeros > 0; zeros--) groups.push('0')
    groups.push(...tail.split(':'))
  }
  return groups.slice(0, 4).join(':')
}
