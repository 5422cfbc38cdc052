import { formatUsd, priceOf } from '../money.ts'
import {
  METER_CUSTOMER_KEY,
  METER_EVENT_NAME,
  METER_VALUE_KEY,
  KEY_TRUST_MS,
  CENT_MICROS,
  failureOf,
  toSeconds,
} from './client.ts'
import type { StripeDeps } from './client.ts'

/** The total of one org and window, as one revision says it. */
export interface WindowReport {
  readonly id: string
  readonly orgId: string
  readonly meter: 'images' | 'items'
  readonly hour: Date
  readonly channel: 'meter' | 'invoice_item'
  readonly quantity: bigint
  readonly dueMicros: bigint
  readonly baseQuantity: bigint
  readonly baseMicros: bigint
  /** Unique for ever; the same at every repeat. */
  readonly identifier: string
  readonly attempts: number
  readonly sealedAt: Date
}

export type SinkOutcome =
  | { kind: 'accepted' }
  /** May have been applied: repeated under the same identifier. */
  | { kind: 'unknown'; error: string }
  /** Was not applied and can be later. */
  | { kind: 'busy'; error: string }
  /** Was not applied and will not be. */
  | { kind: 'failed'; error: string }

/** Where usage is told to. Two ways exist: a meter that keeps totals of hours, and items of an invoice. */
export interface BillingSink {
  /** Tells one revision. Safe to repeat with the same identifier, however long after the first time. */
  report(customerId: string, report: WindowReport): Promise<SinkOutcome>
}

/** The sentence with which Stripe refuses an identifier that it holds already. */
const DUPLICATE = /already exists with identifier/i

/**
 * Tells a meter whose window is an hour, where the latest event of a customer and hour stands for the whole of it.
 * A repeat is refused as a duplicate for a day, which proves that it arrived, and after that overwrites the same
 * total with itself: either way nothing is counted twice.
 */
export function createMeterSink(deps: StripeDeps): BillingSink {
  return {
    async report(customerId, report) {
      try {
        await deps.stripe.billing.meterEvents.create(
          {
            event_name: METER_EVENT_NAME,
            identifier: report.identifier,
            timestamp: toSeconds(report.hour),
            payload: {
              [METER_CUSTOMER_KEY]: customerId,
              [METER_VALUE_KEY]: report.quantity.toString(),
            },
          },
          { idempotencyKey: keyOf(report) },
        )
        return { kind: 'accepted' }
      } catch (error) {
        return toOutcome(error, report.identifier)
      }
    },
  }
}

/** Items of one customer that are searched for one whose answer was lost. */
const MAX_ITEMS = 1_000

/**
 * Puts the difference to what was told before on the customer's next invoice. Items add up, so a repeat first looks
 * for the item by its identifier: Stripe's own memory of keys ends after a day.
 */
export function createInvoiceItemSink(deps: StripeDeps): BillingSink {
  return {
    async report(customerId, report) {
      const amount = toInvoiceCents(report.dueMicros) - toInvoiceCents(report.baseMicros)
      if (amount === 0n) return { kind: 'accepted' }
      try {
        const ageMs = deps.now().getTime() - report.sealedAt.getTime()
        if (report.attempts > SAME_KEY_ATTEMPTS || (report.attempts > 1 && ageMs > KEY_TRUST_MS)) {
          const items = deps.stripe.invoiceItems.list({
            customer: customerId,
            limit: 100,
            created: { gte: toSeconds(report.sealedAt) - 3_600 },
          })
          const known = await items.autoPagingToArray({ limit: MAX_ITEMS })
          if (known.some((item) => item.metadata?.identifier === report.identifier)) {
            return { kind: 'accepted' }
          }
        }
        await deps.stripe.invoiceItems.create(
          {
            customer: customerId,
            currency: 'usd',
            amount: Number(amount),
            description: describe(report),
            metadata: { identifier: report.identifier, org_id: report.orgId },
          },
          { idempotencyKey: keyOf(report) },
        )
        return { kind: 'accepted' }
      } catch (error) {
        return toOutcome(error, report.identifier)
      }
    },
  }
}

/** Repeats under the first key; more would be answered with the stored first answer, were that a server's error. */
const SAME_KEY_ATTEMPTS = 3

/** The identifier itself, as error reports name a rejected event by this key alone; later ones begin with it. */
function keyOf(report: WindowReport): string {
  const { identifier, attempts } = report
  return attempts <= SAME_KEY_ATTEMPTS ? identifier : `${identifier}:${attempts}`
}

/**
 * An amount in whole cents, halves away from zero. What it leaves over is posted as rounding when the invoice is
 * finalised.
 */
export function toInvoiceCents(amountMicros: bigint): bigint {
  const sign = amountMicros < 0n ? -1n : 1n
  return sign * priceOf(1n, CENT_MICROS, sign * amountMicros)
}

function describe(report: WindowReport): string {
  const from = report.hour.toISOString()
  const images = report.quantity - report.baseQuantity
  const usd = formatUsd(report.dueMicros - report.baseMicros)
  return report.meter === 'items' && report.baseQuantity === 0n
    ? `Images of ${from.slice(0, 7)}: ${images} (${usd} USD)`
    : `Correction of usage from ${from.slice(0, 13)}:00 UTC: ${images} images (${usd} USD)`
}

function toOutcome(error: unknown, identifier: string): SinkOutcome {
  const failure = failureOf(error)
  switch (failure.kind) {
    case 'rejected':
      // They hold it: that is all that was wanted.
      return DUPLICATE.test(failure.message) && failure.message.includes(identifier)
        ? { kind: 'accepted' }
        : { kind: 'failed', error: failure.message }
    case 'unknown':
      return { kind: 'unknown', error: failure.message }
    case 'busy':
    case 'misconfigured':
      return { kind: 'busy', error: failure.message }
  }
}
