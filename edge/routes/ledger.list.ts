import { createRoute, z } from '@hono/zod-openapi'
import { readLedger } from '../../billing/ledger-chain.ts'
import type { Deps } from '../deps.ts'
import { KEY_ERRORS, createRouter, errorResponses, jsonResponse } from '../openapi.ts'
import { ledgerPage, pageLimit } from '../usage-contract.ts'

const route = createRoute({
  method: 'get',
  path: '/v1/ledger',
  tags: ['Billing'],
  summary: 'Every entry on the accounts of the organisation, chained by hashes',
  request: {
    query: z.strictObject({
      after: z.coerce.number().int().min(0).default(0),
      limit: pageLimit,
    }),
  },
  responses: {
    200: jsonResponse(ledgerPage, 'A page; pass the last `seq` as `after` for the next one.'),
    ...errorResponses(...KEY_ERRORS, 'invalid_request'),
  },
})

/** `GET /v1/ledger` */
export function ledgerList(deps: Deps) {
  return createRouter().openapi(route, async (c) => {
    const { after, limit } = c.req.valid('query')
    const { previousHash, lines } = await readLedger(deps.db, c.get('principal').orgId, {
      after: BigInt(after),
      limit: limit + 1,
    })
    const data = lines.slice(0, limit).map((line) => ({
      seq: Number(line.seq),
      occurred_at: line.occurredAt.toISOString(),
      kind: line.kind,
      source_id: line.sourceId,
      account: line.account,
      phase: line.phase,
      amount_micros: line.amountMicros.toString(),
      hash: line.hash,
    }))
    return c.json(
      {
        object: 'list' as const,
        currency: 'USD' as const,
        previous_hash: previousHash,
        data,
        has_more: lines.length > limit,
      },
      200,
    )
  })
}
