import { createRoute } from '@hono/zod-openapi'
import { readBalance } from '../../billing/balance.ts'
import type { LevelBalance, PeriodBalance } from '../../billing/balance.ts'
import { formatUsd } from '../../billing/money.ts'
import { checkOrder } from '../check-order.ts'
import { quoteAnswer, quoteBody } from '../contract.ts'
import type { Deps } from '../deps.ts'
import { ApiError } from '../errors.ts'
import {
  BODY_ERRORS,
  KEY_ERRORS,
  createRouter,
  errorResponses,
  jsonBody,
  jsonResponse,
} from '../openapi.ts'

const route = createRoute({
  method: 'post',
  path: '/v1/quote',
  tags: ['Billing'],
  summary: 'What a request would cost, without running it',
  request: { body: jsonBody(quoteBody) },
  responses: {
    200: jsonResponse(quoteAnswer, 'The price now; a job that is accepted keeps its price.'),
    ...errorResponses(...KEY_ERRORS, ...BODY_ERRORS, 'unknown_model'),
  },
})

/** `POST /v1/quote`: holds nothing, so that another call may use the money before. */
export function quoteCreate(deps: Deps) {
  return createRouter().openapi(route, async (c) => {
    const { model, size, n, priority, text_guarantee: guarantee } = c.req.valid('json')
    const principal = c.get('principal')
    const checked = await checkOrder(deps, principal.orgId, { model, size, priority })
    if (checked instanceof ApiError) throw checked
    const { price, width, height } = checked
    const total = price.unitMicros * BigInt(n)
    const available = leastAvailable(await readBalance(deps.db, principal))
    return c.json(
      {
        object: 'quote' as const,
        model,
        size: `${width}x${height}`,
        n,
        priority,
        currency: 'USD' as const,
        sku: price.skuId,
        price_version: price.priceVersionId,
        contract: price.orgPriceId,
        list_price: formatUsd(price.listMicros),
        unit_price: formatUsd(price.unitMicros),
        total: formatUsd(total),
        total_if_text_missed: formatUsd(guarantee === 'refund' ? 0n : total),
        available: available === null ? null : formatUsd(available),
        is_affordable: available === null || total <= available,
      },
      200,
    )
  })
}

function leastAvailable(levels: readonly LevelBalance[]): bigint | null {
  const rooms = levels.flatMap((level) => [
    level.availableMicros,
    roomOf(level.day),
    roomOf(level.month),
  ])
  return rooms.reduce(
    (least, room) => (room === null || (least !== null && least <= room) ? least : room),
    null,
  )
}

function roomOf({ limitMicros, heldMicros, spentMicros }: PeriodBalance): bigint | null {
  return limitMicros === null ? null : limitMicros - heldMicros - spentMicros
}
