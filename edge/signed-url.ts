import { deriveSecret, hmacSha256 } from '../db/derive.ts'
import { peppersOf } from './pepper.ts'
import type { Peppers } from './pepper.ts'

/** Result URLs live as long as those of the hosted API that clients come from. */
export const MAX_URL_SECONDS = 30 * 86_400

/** Picture formats and the ending that their URLs carry. */
export type OutputFormat = 'png' | 'webp' | 'jpeg' | 'avif'

export type UrlVerdict =
  { ok: true; expiresAt: Date } | { ok: false; reason: 'bad_signature' | 'expired' }

/**
 * A URL under which one delivered picture can be fetched without a key until `expiresAt`, cut to whole
 * seconds. The signature covers path and expiry; deleting the picture ends the URL too.
 *
 * @param expiresAt at most 30 days ahead of the caller's clock; the caller checks, as it owns the clock
 */
export async function signOutputUrl(
  deps: { pepper: string; publicUrl: string },
  output: { jobId: string; idx: number; format: OutputFormat; expiresAt: Date },
): Promise<string> {
  const path = `/v1/files/${output.jobId}/${output.idx}.${output.format}`
  const exp = Math.floor(output.expiresAt.getTime() / 1000).toString()
  const query = `exp=${exp}&sig=${await signatureOf(deps.pepper, path, exp)}`
  return `${deps.publicUrl.replace(/\/+$/, '')}${path}?${query}`
}

/**
 * Decides whether a request for a picture carries a good signature. Reads no database, so that a wrong
 * one costs next to nothing; compares in constant time; the expiry is looked at only once it is proved.
 * A URL that the previous pepper signed is good too.
 */
export async function verifyOutputUrl(
  deps: Peppers & { now: () => Date },
  request: { path: string; exp: string; sig: string },
): Promise<UrlVerdict> {
  if (!/^[1-9][0-9]{0,11}$/.test(request.exp)) return { ok: false, reason: 'bad_signature' }
  const signatures = await Promise.all(
    peppersOf(deps).map((pepper) => signatureOf(pepper, request.path, request.exp)),
  )
  if (!signatures.some((expected) => isEqualConstantTime(expected, request.sig)))
    return { ok: false, reason: 'bad_signature' }
  const expiresAt = new Date(Number(request.exp) * 1000)
  if (expiresAt <= deps.now()) return { ok: false, reason: 'expired' }
  return { ok: true, expiresAt }
}

/**
 * Compares two texts in a time that depends on the second one's length alone, which the caller of the
 * API chose anyway.
 */
export function isEqualConstantTime(expected: string, given: string): boolean {
  let difference = expected.length ^ given.length
  for (let index = 0; index < given.length; index++)
    difference |= given.charCodeAt(index) ^ expected.charCodeAt(index % (expected.length || 1))
  return difference === 0
}

async function signatureOf(pepper: string, path: string, exp: string): Promise<string> {
  const secret = await deriveSecret(pepper, 'url-signing')
  const mac = await hmacSha256(secret, `${path}\n${exp}`)
  return btoa(String.fromCharCode(...mac))
    .replaceAll('+', '-')
    .replaceAll('/', '_')
    .replaceAll('=', '')
}
