import { z } from '@hono/zod-openapi'

const usd = z.string().regex(/^-?\d+\.\d{6}$/)
const instant = z.iso.datetime()
/** Longer spans are asked for in pieces. */
const MAX_SPAN_DAYS = 400
const MS_PER_DAY = 86_400_000

/** `from` is in the span, `to` is not; both with an offset or Z. */
export const spanQuery = {
  from: z.iso.datetime({ offset: true }).openapi({ example: '2026-11-01T00:00:00Z' }),
  to: z.iso.datetime({ offset: true }).openapi({ example: '2026-12-01T00:00:00Z' }),
}

export const pageLimit = z.coerce.number().int().min(1).max(1000).default(100)

/** Whether the ends of a span are in order and not too far apart. */
export function isSpan({ from, to }: { from: string; to: string }): boolean {
  const days = (Date.parse(to) - Date.parse(from)) / MS_PER_DAY
  return days > 0 && days <= MAX_SPAN_DAYS
}

export const SPAN_RULE = {
  path: ['to'],
  message: `must be after from, by at most ${MAX_SPAN_DAYS} days`,
}

const amounts = { list: usd, discount: usd, net: usd, credit: usd }

export const usageBucket = z
  .strictObject({
    /** Start of the hour, day or month (UTC); null without buckets. */
    bucket: instant.nullable(),
    team_id: z.string().nullable(),
    key_id: z.string().nullable(),
    sku_id: z.string().nullable(),
    size: z.string().nullable(),
    images: z.int(),
    ...amounts,
  })
  .openapi('UsageBucket')

export const usageAnswer = z
  .strictObject({
    object: z.literal('usage'),
    currency: z.literal('USD'),
    from: instant,
    to: instant,
    data: z.array(usageBucket),
  })
  .openapi('Usage')

export const receiptList = z
  .strictObject({
    object: z.literal('list'),
    /** Compact JWS, one per picture. */
    data: z.array(z.string()),
    has_more: z.boolean(),
    next_after: z.string().nullable(),
  })
  .openapi('ReceiptList')

export const ledgerLine = z
  .strictObject({
    seq: z.int(),
    occurred_at: instant,
    kind: z.string(),
    source_id: z.string(),
    account: z.string(),
    phase: z.enum(['pending', 'posted']),
    amount_micros: z.string().regex(/^-?\d+$/),
    /** SHA-256 (hex) over the line and the hash before it. */
    hash: z.string(),
  })
  .openapi('LedgerLine')

export const ledgerPage = z
  .strictObject({
    object: z.literal('list'),
    currency: z.literal('USD'),
    /** Hash of the line before the first one; of sixty-four zeros for the first line of all. */
    previous_hash: z.string(),
    data: z.array(ledgerLine),
    has_more: z.boolean(),
  })
  .openapi('LedgerPage')
