import { CompactSign, calculateJwkThumbprint, exportJWK } from 'jose'
import type { JWK } from 'jose'
import type { Receipt } from '../billing/receipt.ts'
import { deriveSigningKey } from '../db/derive.ts'

const LABEL = 'receipt-ed25519'
const utf8 = new TextEncoder()

/** What signs receipts: derived from the server's pepper, so that every process signs with the same key. */
export interface ReceiptSigner {
  /** The public part, as it stands in the key set; `kid` is its RFC 7638 thumbprint. */
  readonly publicJwk: JWK
  /** A compact JWS (EdDSA over Ed25519) of the receipt as JSON; the same receipt gives the same text. */
  sign(receipt: Receipt): Promise<string>
}

/** @param issuer origin of the gateway, stated in every receipt */
export async function createReceiptSigner(pepper: string, issuer: string): Promise<ReceiptSigner> {
  const key = await deriveSigningKey(pepper, LABEL)
  const { kty, crv, x } = await exportJWK(key)
  if (kty === undefined || crv === undefined || x === undefined) {
    throw new Error('the runtime exports Ed25519 keys without a public part')
  }
  const kid = await calculateJwkThumbprint({ kty, crv, x })
  return {
    publicJwk: { kty, crv, x, kid, alg: 'EdDSA', use: 'sig' },
    sign: (receipt) =>
      new CompactSign(utf8.encode(JSON.stringify({ iss: issuer, ...receipt })))
        .setProtectedHeader({ alg: 'EdDSA', typ: 'receipt+jws', kid })
        .sign(key),
  }
}
