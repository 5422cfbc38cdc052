import { createRoute, z } from '@hono/zod-openapi'
import type { Deps } from '../deps.ts'
import { createRouter, errorResponses, jsonResponse } from '../openapi.ts'
import { peppersOf } from '../pepper.ts'
import { createReceiptSigner } from '../receipt-signature.ts'

const publicKey = z.strictObject({
  kty: z.literal('OKP'),
  crv: z.literal('Ed25519'),
  x: z.string(),
  kid: z.string(),
  alg: z.literal('EdDSA'),
  use: z.literal('sig'),
})

const route = createRoute({
  method: 'get',
  path: '/.well-known/jwks.json',
  tags: ['Billing'],
  summary: 'The public keys of receipts',
  security: [],
  responses: {
    200: jsonResponse(z.strictObject({ keys: z.array(publicKey) }), 'A JSON Web Key Set.'),
    ...errorResponses('internal'),
  },
})

/** `GET /.well-known/jwks.json`: needs no key, so that an auditor can have it too; the signing key comes first. */
export function jwksGet(deps: Deps) {
  return createRouter().openapi(route, async (c) => {
    const signers = await Promise.all(
      peppersOf(deps).map((pepper) => createReceiptSigner(pepper, deps.publicUrl)),
    )
    return c.json({ keys: signers.map(({ publicJwk }) => publicKey.parse(publicJwk)) }, 200)
  })
}
