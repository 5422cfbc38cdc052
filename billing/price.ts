import type { Db } from '../db/client.ts'
import { createId } from '../db/ids.ts'

/** What a price depends on. */
export interface PriceRequest {
  readonly orgId: string
  readonly model: string
  readonly width: number
  readonly height: number
  readonly quality: string
  readonly priority: 'standard' | 'batch'
  readonly at: Date
}

/** What one image costs, and the price versions that say so. Amounts in micro-USD. */
export interface PriceQuote {
  readonly skuId: string
  readonly priceVersionId: string
  /** The list price beside it; the same version where there is no contract. */
  readonly listVersionId: string
  readonly orgPriceId: string | null
  /** The most that one image can cost; with tiers it may cost less. */
  readonly unitMicros: bigint
  readonly listMicros: bigint
  readonly currency: string
}

export type SizeClass = 'small' | 'medium' | 'large'

/** 768 x 768. */
const SMALL_PIXELS = 589_824
/** All seven sizes that the vendor recommends lie below, the largest (1728 x 960) closely. */
const MEDIUM_PIXELS = 1_677_721

/** The size class that a price book may tell apart. */
export function sizeClassOf(width: number, height: number): SizeClass {
  const pixels = width * height
  if (pixels <= SMALL_PIXELS) return 'small'
  return pixels <= MEDIUM_PIXELS ? 'medium' : 'large'
}

/**
 * The price of one image for an org at an instant: by its contract, or the list.
 *
 * @returns null when this is not for sale at that time
 */
export async function quotePrice(db: Db, request: PriceRequest): Promise<PriceQuote | null> {
  const { orgId, model, quality, priority, at } = request
  const sizeClass = sizeClassOf(request.width, request.height)
  const [row] = await db.sql<{ quote: WireQuote | null }[]>`
    select quote_price(${orgId}, ${model}, ${sizeClass}, ${quality}, ${priority}, ${at}) as quote`
  if (!row?.quote) return null
  const { quote } = row
  return {
    skuId: quote.sku_id,
    priceVersionId: quote.price_version_id,
    listVersionId: quote.list_version_id,
    orgPriceId: quote.org_price_id,
    unitMicros: BigInt(quote.unit_micros),
    listMicros: BigInt(quote.list_micros),
    currency: quote.currency,
  }
}

interface WireQuote {
  sku_id: string
  price_version_id: string
  list_version_id: string
  org_price_id: string | null
  unit_micros: string
  list_micros: string
  currency: string
}

/** A price from an image's place in the org's calendar month on; the last one has no end. */
export interface PriceTier {
  readonly upTo: bigint | null
  readonly priceMicros: bigint
}

/** The book that applies where an org has no contract of its own. */
export const LIST_BOOK = 'default'

/** SQLSTATE of a request that breaks a rule; the message says which. */
const BAD_REQUEST = 'GP400'

export type PublishResult = { ok: true; id: string } | { ok: false; message: string }

/**
 * Puts a price into force from an instant on; the one before ends there. Jobs that were accepted keep theirs.
 *
 * @param input.price micro-USD per `perUnits` images, or tiers
 * @param input.validFrom not in the past
 */
export async function publishPrice(
  db: Db,
  input: {
    bookId: string
    skuId: string
    price: bigint | readonly PriceTier[]
    perUnits?: bigint
    validFrom: Date
  },
): Promise<PublishResult> {
  const { bookId, skuId, price, perUnits = 1n, validFrom } = input
  const id = createId('priceVersion')
  const flat = typeof price === 'bigint' ? price : 0n
  const tiers =
    typeof price === 'bigint'
      ? null
      : JSON.stringify(
          price.map((tier) => ({
            up_to: tier.upTo === null ? null : Number(tier.upTo),
            price_micros: Number(tier.priceMicros),
          })),
        )
  return await publish(
    id,
    () => db.sql`
      select publish_price(${id}, ${bookId}, ${skuId}, ${flat}, ${perUnits}, ${tiers}::text::jsonb, ${validFrom})`,
  )
}

/**
 * Puts a contract into force from an instant on; the org's contract before ends there.
 *
 * @param input.discountBp basis points off the prices of the book
 */
export async function agreePrice(
  db: Db,
  input: { orgId: string; bookId?: string; discountBp: number; validFrom: Date },
): Promise<PublishResult> {
  const { orgId, bookId = LIST_BOOK, discountBp, validFrom } = input
  const id = createId('orgPrice')
  return await publish(
    id,
    () => db.sql`select agree_price(${id}, ${orgId}, ${bookId}, ${discountBp}, ${validFrom})`,
  )
}

async function publish(id: string, statement: () => Promise<unknown>): Promise<PublishResult> {
  try {
    await statement()
    return { ok: true, id }
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === BAD_REQUEST) {
      return { ok: false, message: error.message }
    }
    throw error
  }
}
