const utf8 = new TextEncoder()
/** Appended to every label; raised when a derivation must change, so that old and new never meet. */
const VERSION = 'v1'

/**
 * HMAC-SHA-256 of a text under a text key, raw 32 bytes.
 *
 * @param key the pepper or a secret derived from it; never empty
 */
export async function hmacSha256(key: string, message: string): Promise<Uint8Array> {
  const imported = await crypto.subtle.importKey(
    'raw',
    utf8.encode(key),
    { name: 'HMAC', hash: 'SHA-256' },
    false,
    ['sign'],
  )
  return new Uint8Array(await crypto.subtle.sign('HMAC', imported, utf8.encode(message)))
}

/**
 * A secret for one purpose, derived from the server's pepper, so that one secret is kept and none stored.
 * The same label gives the same secret in every process.
 *
 * @param label the purpose, such as `url-signing` or `internal`
 * @returns 64 hex characters
 */
export async function deriveSecret(pepper: string, label: string): Promise<string> {
  return toHex(await hmacSha256(pepper, `${label}:${VERSION}`))
}

/** DER header of a PKCS #8 document that holds a bare Ed25519 seed (RFC 8410). */
const PKCS8_ED25519 = Uint8Array.from([
  0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
])

/** An Ed25519 key for one purpose, derived from the server's pepper; exportable, for its public part. */
export async function deriveSigningKey(pepper: string, label: string) {
  const seed = await hmacSha256(pepper, `${label}:${VERSION}`)
  const document = new Uint8Array(PKCS8_ED25519.length + seed.length)
  document.set(PKCS8_ED25519)
  document.set(seed, PKCS8_ED25519.length)
  return crypto.subtle.importKey('pkcs8', document, 'Ed25519', true, ['sign'])
}

/** Lower-case hex. */
export function toHex(bytes: Uint8Array): string {
  let text = ''
  for (const byte of bytes) text += byte.toString(16).padStart(2, '0')
  return text
}
