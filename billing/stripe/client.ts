import { Stripe } from 'stripe'
import type { Db } from '../../db/client.ts'

export type { Stripe }

/** What reaches Stripe. The address is replaced only by tests and by proxies. */
export interface StripeSettings {
  readonly secretKey: string
  /** Signing secrets of webhook endpoints: one for each endpoint, and two of one while it is rotated. */
  readonly webhookSecrets: readonly string[]
  /** Origin of the API in place of Stripe's own. */
  readonly apiBase?: string
  readonly timeoutMs?: number
}

/** What the Stripe side works with. */
export interface StripeDeps {
  readonly db: Db
  readonly stripe: Stripe
  readonly webhookSecrets: readonly string[]
  readonly now: () => Date
  readonly log: (entry: Record<string, unknown>) => void
}

/** Name of our meter's events; a name can belong to one meter alone. */
export const METER_EVENT_NAME = 'glyphpress_images'
/** Where the meter looks for the customer and the number of images. */
export const METER_CUSTOMER_KEY = 'stripe_customer_id'
export const METER_VALUE_KEY = 'images'
/** Finds the metered price without a setting for its id. */
export const PRICE_LOOKUP_KEY = 'glyphpress_image'
/** One cent in micro-USD. */
export const CENT_MICROS = 10_000n
/** Stripe keeps idempotency keys and event identifiers for at least a day; beyond this we no longer rely on them. */
export const KEY_TRUST_MS = 20 * 3_600_000
/** Stripe answers within a second or two; longer than this it counts as unknown and is asked again. */
const TIMEOUT_MS = 20_000

/**
 * The only place that knows the SDK. The same fetch client runs on Node and on Workers. The SDK repeats nothing by
 * itself: our own rows remember what is to be repeated, under which key.
 */
export function createStripe(settings: StripeSettings): Stripe {
  const base = settings.apiBase === undefined ? null : new URL(settings.apiBase)
  return new Stripe(settings.secretKey, {
    maxNetworkRetries: 0,
    timeout: settings.timeoutMs ?? TIMEOUT_MS,
    httpClient: Stripe.createFetchHttpClient(),
    telemetry: false,
    appInfo: { name: 'glyphpress' },
    ...(base === null
      ? {}
      : {
          host: base.hostname,
          port: base.port || (base.protocol === 'http:' ? 80 : 443),
          protocol: base.protocol === 'http:' ? ('http' as const) : ('https' as const),
        }),
  })
}

/** A price or quantity in the exact form that the SDK takes. */
export function toDecimal(text: string) {
  return Stripe.Decimal.from(text)
}

/**
 * Checks a webhook's signature against each secret, by Web Crypto and over the bytes as they came.
 *
 * @returns id, type and the parsed body, of a snapshot event as of a thin one; null when no secret fits
 */
export async function verifyWebhook(
  deps: Pick<StripeDeps, 'stripe' | 'webhookSecrets'>,
  rawBody: string,
  signature: string,
): Promise<{ id: string; type: string; payload: string } | null> {
  const provider = Stripe.createSubtleCryptoProvider()
  const isThin = isThinEvent(rawBody)
  for (const secret of deps.webhookSecrets) {
    try {
      const event = isThin
        ? await deps.stripe.parseEventNotificationAsync(
            rawBody,
            signature,
            secret,
            undefined,
            provider,
          )
        : await deps.stripe.webhooks.constructEventAsync(
            rawBody,
            signature,
            secret,
            undefined,
            provider,
          )
      return { id: event.id, type: event.type, payload: rawBody }
    } catch (error) {
      if (!(error instanceof Stripe.errors.StripeSignatureVerificationError)) throw error
    }
  }
  return null
}

/** Which helper may read it; says nothing of who sent it. */
function isThinEvent(rawBody: string): boolean {
  try {
    const body: unknown = JSON.parse(rawBody)
    return (
      typeof body === 'object' &&
      body !== null &&
      'object' in body &&
      body.object === 'v2.core.event'
    )
  } catch {
    return false
  }
}

/** What a failed call means for what it was to change. */
export type StripeFailure =
  /** Stripe refused it; a repeat would be refused too. Nothing was changed. */
  | { kind: 'rejected'; message: string; code: string | null }
  /** Stripe had no time for it. Nothing was changed; the same call works later. */
  | { kind: 'busy'; message: string }
  /** Nobody knows whether it was applied: only a repeat under the same key is safe. */
  | { kind: 'unknown'; message: string }
  /** The key or the account is not right: an operator has to act, and the same call works then. */
  | { kind: 'misconfigured'; message: string }

/** Sorts an error of the SDK. @throws what is not of the SDK, as that is a bug or the database */
export function failureOf(error: unknown): StripeFailure {
  if (!(error instanceof Stripe.errors.StripeError)) throw error
  const { message, statusCode, code } = error
  if (statusCode === undefined || statusCode >= 500) return { kind: 'unknown', message }
  if (statusCode === 429) return { kind: 'busy', message }
  // Another call under this key is under way, or an object is locked.
  if (statusCode === 409) return { kind: 'unknown', message }
  if (statusCode === 401 || statusCode === 403) return { kind: 'misconfigured', message }
  return { kind: 'rejected', message, code: code ?? null }
}

/** Whole cents of an amount that has no smaller part. @throws RangeError (bug) when it has */
export function toCents(amountMicros: bigint): number {
  if (amountMicros % CENT_MICROS !== 0n) throw new RangeError(`${amountMicros} is not whole cents`)
  return Number(amountMicros / CENT_MICROS)
}

/** Cents as micro-USD. */
export function fromCents(cents: number): bigint {
  return BigInt(cents) * CENT_MICROS
}

/** The id of an object that Stripe sends as id or in full. */
export function idOf(reference: string | { id: string } | null | undefined): string | null {
  if (reference === null || reference === undefined) return null
  return typeof reference === 'string' ? reference : reference.id
}

/** Stripe's time. */
export function toSeconds(date: Date): number {
  return Math.floor(date.getTime() / 1000)
}
