import { hmacSha256 } from '../db/derive.ts'
import { peppersOf } from './pepper.ts'
import type { Peppers } from './pepper.ts'

const utf8 = new TextEncoder()
/** DER header of a PKCS #8 document that holds a bare Ed25519 seed (RFC 8410). */
const PKCS8_ED25519 = Uint8Array.from([
  0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
])

/**
 * Whose secret signs: a registered endpoint (`whe_...`) with the version that rotation counts up, or an
 * org (`org_...`, always version 1) for the URLs that come with single jobs.
 */
export interface WebhookSigner {
  id: string
  version: number
}

/**
 * What a receiver needs to verify, in the forms of Standard Webhooks: the shared secret and the public
 * key. Both are derived from the server's pepper; nothing is stored, so they can be shown again.
 *
 * @returns `secret` is `whsec_` + base64 of 32 bytes, `publicKey` is `whpk_` + base64 of 32 bytes
 */
export async function webhookSecrets(
  pepper: string,
  signer: WebhookSigner,
): Promise<{ secret: string; publicKey: string }> {
  const key = await sharedKey(pepper, signer)
  const jwk = await crypto.subtle.exportKey('jwk', await privateKey(pepper, signer))
  if (jwk.x === undefined) throw new Error('the runtime exports Ed25519 keys without a public part')
  const publicBase64 = jwk.x.replaceAll('-', '+').replaceAll('_', '/').padEnd(44, '=')
  return { secret: `whsec_${toBase64(key)}`, publicKey: `whpk_${publicBase64}` }
}

/**
 * The three headers of one message by Standard Webhooks 1.0: every signer signs once with HMAC-SHA256
 * (`v1`) and once with Ed25519 (`v1a`); a receiver accepts the message if any signature fits.
 *
 * @param peppers with the previous one every signer signs under it too, for receivers that know its secret
 * @param signers the current one first; during a rotation also the one before
 * @param at the moment of sending; receivers refuse messages more than five minutes away from it
 */
export async function signWebhook(
  peppers: Peppers,
  signers: readonly WebhookSigner[],
  message: { id: string; at: Date; body: string },
): Promise<Record<'webhook-id' | 'webhook-timestamp' | 'webhook-signature', string>> {
  const timestamp = Math.floor(message.at.getTime() / 1000).toString()
  const signed = utf8.encode(`${message.id}.${timestamp}.${message.body}`)
  const signatures: string[] = []
  for (const pepper of peppersOf(peppers)) {
    for (const signer of signers) signatures.push(...(await signOnce(pepper, signer, signed)))
  }
  return {
    'webhook-id': message.id,
    'webhook-timestamp': timestamp,
    'webhook-signature': signatures.join(' '),
  }
}

async function signOnce(
  pepper: string,
  signer: WebhookSigner,
  signed: Uint8Array<ArrayBuffer>,
): Promise<[hmac: string, ed25519: string]> {
  const shared = await crypto.subtle.importKey(
    'raw',
    await sharedKey(pepper, signer),
    { name: 'HMAC', hash: 'SHA-256' },
    false,
    ['sign'],
  )
  const mac = await crypto.subtle.sign('HMAC', shared, signed)
  const proof = await crypto.subtle.sign('Ed25519', await privateKey(pepper, signer), signed)
  return [`v1,${toBase64(new Uint8Array(mac))}`, `v1a,${toBase64(new Uint8Array(proof))}`]
}

async function sharedKey(pepper: string, signer: WebhookSigner): Promise<Uint8Array<ArrayBuffer>> {
  const label = `webhook-hmac:${signer.id}:${signer.version}:v1`
  return Uint8Array.from(await hmacSha256(pepper, label))
}

async function privateKey(pepper: string, signer: WebhookSigner) {
  const seed = await hmacSha256(pepper, `webhook-ed25519:${signer.id}:${signer.version}:v1`)
  const document = new Uint8Array(PKCS8_ED25519.length + seed.length)
  document.set(PKCS8_ED25519)
  document.set(seed, PKCS8_ED25519.length)
  return crypto.subtle.importKey('pkcs8', document, 'Ed25519', true, ['sign'])
}

function toBase64(bytes: Uint8Array): string {
  return btoa(String.fromCharCode(...bytes))
}
