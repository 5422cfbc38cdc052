import { hmacSha256, toHex } from '../db/derive.ts'

/** Digits, capitals, small letters: the order gives each its value. */
const BASE62 = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'
const RANDOM_CHARACTERS = 30
const CHECKSUM_CHARACTERS = 6
const KEY_FORM = /^gp_(live|test)_[0-9A-Za-z]{36}$/

/** What a key may do; `billing` is paying: top-ups and the customer portal. */
export const SCOPES = ['generate', 'read', 'webhooks', 'billing'] as const
export type Scope = (typeof SCOPES)[number]

/** A name for the key's owner to tell keys apart; both kinds draw and are charged alike. */
export type KeyEnv = 'live' | 'test'

/**
 * Makes an API key: `gp_live_`, 30 random base-62 characters (178 bits), and 6 of their CRC-32, by which a
 * typing error or a probe is refused before any look-up.
 *
 * @returns the key, to be shown once, and what is stored of it
 */
export async function createApiKey(
  pepper: string,
  env: KeyEnv,
): Promise<{ key: string; hash: string; last4: string }> {
  let body = `gp_${env}_`
  while (body.length < `gp_${env}_`.length + RANDOM_CHARACTERS) {
    for (const byte of crypto.getRandomValues(new Uint8Array(RANDOM_CHARACTERS))) {
      // 248 is the largest multiple of 62 in a byte; beyond it some characters would be likelier.
      if (byte < 248 && body.length < `gp_${env}_`.length + RANDOM_CHARACTERS) {
        body += BASE62.charAt(byte % 62)
      }
    }
  }
  const key = body + checksumOf(body)
  return { key, hash: await hashApiKey(pepper, key), last4: key.slice(-4) }
}

/** Whether a text has the form and checksum of a key. Reads nothing. */
export function isWellFormedKey(text: string): boolean {
  return KEY_FORM.test(text) && text.endsWith(checksumOf(text.slice(0, -CHECKSUM_CHARACTERS)))
}

/** What is stored of a key: hex HMAC-SHA-256 under the pepper. */
export async function hashApiKey(pepper: string, key: string): Promise<string> {
  return toHex(await hmacSha256(pepper, key))
}

/**
 * The secret half of the Z.ai form `<key id>.<secret>` of a key. Derived from pepper and hash, so it is not
 * stored either; it signs the JWTs of Z.ai's clients.
 */
export async function zaiSecretOf(pepper: string, hash: string): Promise<string> {
  return toHex(await hmacSha256(pepper, `zai:${hash}`))
}

function checksumOf(text: string): string {
  let rest = crc32(text)
  let out = ''
  for (let index = 0; index < CHECKSUM_CHARACTERS; index++) {
    out = BASE62.charAt(rest % 62) + out
    rest = Math.floor(rest / 62)
  }
  return out
}

/** CRC-32 (IEEE) of an ASCII text. */
function crc32(text: string): number {
  let crc = 0xffffffff
  for (let index = 0; index < text.length; index++) {
    crc ^= text.charCodeAt(index)
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1
  }
  return (crc ^ 0xffffffff) >>> 0
}
