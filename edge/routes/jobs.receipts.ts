import { createRoute } from '@hono/zod-openapi'
import { listJobReceipts } from '../../billing/receipt.ts'
import { jobIdParam } from '../contract.ts'
import type { Deps } from '../deps.ts'
import { ApiError } from '../errors.ts'
import { KEY_ERRORS, createRouter, errorResponses, jsonResponse } from '../openapi.ts'
import { createReceiptSigner } from '../receipt-signature.ts'
import { receiptList } from '../usage-contract.ts'

const route = createRoute({
  method: 'get',
  path: '/v1/jobs/{job_id}/receipts',
  tags: ['Billing'],
  summary: 'Signed receipts of a finished job: one per picture, and one for what was not delivered',
  request: { params: jobIdParam },
  responses: {
    200: jsonResponse(receiptList, 'Compact JWS; empty while the job is unfinished.'),
    ...errorResponses(...KEY_ERRORS, 'not_found'),
  },
})

/** `GET /v1/jobs/{job_id}/receipts` */
export function jobsReceipts(deps: Deps) {
  return createRouter().openapi(route, async (c) => {
    const { job_id: jobId } = c.req.valid('param')
    const { orgId } = c.get('principal')
    const receipts = await listJobReceipts(deps.db, { orgId, jobId })
    if (receipts === null) throw new ApiError('not_found')
    const signer = await createReceiptSigner(deps.pepper, deps.publicUrl)
    const data = await Promise.all(receipts.map((receipt) => signer.sign(receipt)))
    return c.json({ object: 'list' as const, data, has_more: false, next_after: null }, 200)
  })
}
