import { z } from '@hono/zod-openapi'
import { formatUsd, micros } from '../billing/money.ts'
import type { Topup } from '../billing/stripe/topup.ts'
import { MAX_TOPUP_MICROS, MIN_TOPUP_MICROS } from '../billing/stripe/topup.ts'

const usd = z.string().regex(/^-?\d+\.\d{6}$/)
const instant = z.iso.datetime()
const CENTS = /^(\d{1,6})(?:\.(\d{1,2}))?$/

/** Whole cents as a text or a number: `25`, `"25.00"`. Never a float's arithmetic. */
const dollars = z
  .union([z.string(), z.number()])
  .refine((value) => CENTS.test(String(value)), 'must be US dollars with at most two decimals')
  .openapi({ type: 'string', example: '25.00' })

const topupDollars = dollars.refine(
  (value) => toMicros(value) >= MIN_TOPUP_MICROS && toMicros(value) <= MAX_TOPUP_MICROS,
  `must be from ${formatUsd(MIN_TOPUP_MICROS)} to ${formatUsd(MAX_TOPUP_MICROS)}`,
)

/** Where Stripe's pages lead back to. */
const returnUrl = z.url({ protocol: /^https?$/ }).max(2_000)

export const createTopupBody = z.strictObject({
  amount_usd: topupDollars,
  success_url: returnUrl.optional(),
  cancel_url: returnUrl.optional(),
})

export const topupStarted = z
  .strictObject({
    id: z.string(),
    object: z.literal('topup'),
    amount: usd,
    currency: z.literal('USD'),
    checkout_url: z.string(),
    expires_at: instant,
  })
  .openapi('TopupStarted')

export const wireTopup = z
  .strictObject({
    id: z.string(),
    object: z.literal('topup'),
    kind: z.enum(['checkout', 'auto']),
    state: z.enum(['pending', 'paid', 'failed', 'expired']),
    amount: usd,
    currency: z.literal('USD'),
    failure_reason: z.string().nullable(),
    created_at: instant,
    settled_at: instant.nullable(),
  })
  .openapi('Topup')

export const topupPage = z
  .strictObject({
    object: z.literal('list'),
    data: z.array(wireTopup),
    has_more: z.boolean(),
    next_before: z.string().nullable(),
  })
  .openapi('TopupPage')

export const autoTopupBody = z.strictObject({
  enabled: z.boolean(),
  below_usd: dollars.optional(),
  amount_usd: topupDollars.optional(),
})

export const autoTopupAnswer = z
  .strictObject({ enabled: z.boolean(), below: usd.nullable(), amount: usd.nullable() })
  .openapi('AutoTopup')

export const portalBody = z.strictObject({ return_url: returnUrl.optional() })

export const portalAnswer = z.strictObject({ url: z.string() }).openapi('BillingPortal')

/** Exact micro-USD of checked dollars. */
export function toMicros(value: string | number): bigint {
  const [, whole = '0', cents = ''] = CENTS.exec(String(value)) ?? []
  return micros(BigInt(whole) * 1_000_000n + BigInt(cents.padEnd(2, '0')) * 10_000n)
}

export function toWireTopup(topup: Topup): z.output<typeof wireTopup> {
  return {
    id: topup.id,
    object: 'topup',
    kind: topup.kind,
    state: topup.state,
    amount: formatUsd(topup.amountMicros),
    currency: 'USD',
    failure_reason: topup.failureReason,
    created_at: topup.createdAt.toISOString(),
    settled_at: topup.settledAt?.toISOString() ?? null,
  }
}
