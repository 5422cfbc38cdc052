import type { PriceQuote } from '../billing/price.ts'
import { checkSize, sizeLike } from './catalogue.ts'
import type { CatalogueEntry } from './catalogue.ts'
import type { Deps } from './deps.ts'
import { ApiError } from './errors.ts'
import { ADDRESS_REFUSALS, checkWebhookUrl } from './webhook-address.ts'

/** The one quality in which GLM-Image draws; the price book can tell more apart. */
export const QUALITY = 'hd'

/** Of an order, what its price and its admission depend on. */
export interface OrderTerms {
  model: string
  /** Absent: the size of the first input or, without one, the model's default. */
  size?: string | undefined
  inputs?: { images: readonly { width: number; height: number }[] } | undefined
  priority?: 'standard' | 'batch' | undefined
  webhookUrl?: string | undefined
}

export interface CheckedOrder {
  entry: CatalogueEntry
  price: PriceQuote
  width: number
  height: number
}

/** Model, size, price and webhook address; returns the error that names the first rule that is broken. */
export async function checkOrder(
  deps: Deps,
  orgId: string,
  order: OrderTerms,
): Promise<CheckedOrder | ApiError> {
  const entry = await deps.catalogue.find(deps.db, order.model)
  if (!entry) {
    return new ApiError('unknown_model', {
      message: `model "${order.model}" is not offered.`,
      param: 'model',
    })
  }
  const [first] = order.inputs?.images ?? []
  const usual = first === undefined ? entry.size.default : sizeLike(entry.size, first)
  const size = checkSize(entry.size, order.size ?? usual)
  if (!size.ok) return new ApiError('invalid_request', { message: size.message, param: 'size' })
  if (order.webhookUrl !== undefined) {
    const verdict = checkWebhookUrl(order.webhookUrl, { allowLoopback: deps.allowLoopbackWebhooks })
    if (!verdict.ok) {
      return new ApiError('invalid_request', {
        message: `webhook_url: ${ADDRESS_REFUSALS[verdict.reason]}.`,
        param: 'webhook_url',
      })
    }
  }
  const { width, height } = size
  const { model, priority = 'standard' } = order
  const kind = { orgId, model, width, height, quality: QUALITY, priority }
  const price = await deps.catalogue.price(deps.db, kind)
  if (!price) {
    return new ApiError('unknown_model', {
      message: `model "${model}" is not for sale in this size and priority.`,
      param: 'model',
    })
  }
  return { entry, price, width, height }
}
