import type { Db } from '../db/client.ts'
import { cancelDelivery, recordAttempt } from '../db/webhook-attempts.ts'
import type { AttemptVerdict, ClaimedDelivery } from '../db/webhook-attempts.ts'
import type { Peppers } from './pepper.ts'
import { checkWebhookUrl } from './webhook-address.ts'
import { signWebhook } from './webhook-signature.ts'
import type { WebhookSigner } from './webhook-signature.ts'

export interface WebhookRequest {
  url: URL
  headers: Record<string, string>
  body: string
  timeoutMs: number
}

/** What a sender says of one request: an answer of any status, or why there was none. Never the answer's text. */
export type SendResult =
  | { ok: true; statusCode: number; retryAfterSeconds: number | null }
  | {
      ok: false
      error: 'timeout' | 'address_not_public' | 'dns_failed' | 'tls_failed' | 'connection_failed'
    }

/**
 * Sends one POST. Does not throw for anything that the network or the receiver does; follows no redirect;
 * refuses addresses that are not public.
 */
export type SendWebhook = (request: WebhookRequest) => Promise<SendResult>

export interface DeliverDeps extends Peppers {
  db: Db
  sendWebhook: SendWebhook
  /** Whether events may go to this machine itself; see `checkWebhookUrl`. */
  allowLoopbackWebhooks: boolean
  now: () => Date
  /** Uniform in [0, 1); for the jitter. */
  random?: () => number
}

/** Receivers that need longer should answer first and work afterwards; the sender of Svix waits as long. */
export const ATTEMPT_TIMEOUT_MS = 15_000
/**
 * Wait before each attempt, about 75.6 hours in all: the example schedule of Standard Webhooks 1.0, long
 * enough for a receiver that breaks on a Friday evening.
 */
export const RETRY_DELAYS_SECONDS: readonly number[] = [
  0, 5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400,
]
/** Up to this part of a wait is added at random, so that what failed together does not return together. */
const JITTER = 0.1
/** An endpoint that only fails for this long is switched off; its owner is told by event and by its state. */
export const DISABLE_AFTER_SECONDS = 5 * 86_400
/** Least pause for a receiver that says it is overloaded, for all its deliveries. */
const SLOW_DOWN_SECONDS = 60
/** Bound on what a receiver's Retry-After may ask for. */
const MAX_DELAY_SECONDS = 86_400

export type DeliveryOutcome = 'delivered' | 'retried' | 'failed' | 'canceled' | 'superseded'

/**
 * Makes one attempt for a claimed delivery and records it. At least once: a crash before the record repeats
 * the attempt after the claim's lease, with the same `webhook-id`.
 */
export async function deliver(
  deps: DeliverDeps,
  delivery: ClaimedDelivery,
): Promise<DeliveryOutcome> {
  if (!delivery.isWanted) {
    await cancelDelivery(deps.db, { deliveryId: delivery.id })
    return 'canceled'
  }
  const startedAt = deps.now()
  const sent = await attempt(deps, delivery, startedAt)
  const endedAt = deps.now()
  const verdict: AttemptVerdict =
    sent === 'refused'
      ? { state: 'failed', isGone: false }
      : judgeAttempt(sent.result, {
          attempt: delivery.attempt,
          at: endedAt,
          random: (deps.random ?? Math.random)(),
        })
  const recorded = await recordAttempt(deps.db, {
    delivery,
    result: {
      startedAt,
      durationMs: endedAt.getTime() - startedAt.getTime(),
      statusCode: sent !== 'refused' && sent.result.ok ? sent.result.statusCode : null,
      error: sent === 'refused' ? 'url_refused' : errorOf(sent.result),
    },
    verdict,
    disableAfterSeconds: DISABLE_AFTER_SECONDS,
  })
  if (!recorded.isRecorded) return 'superseded'
  return verdict.state === 'pending' ? 'retried' : verdict.state
}

/**
 * What follows from an attempt. Success is 2xx and nothing else: a redirect is a failure, as following it
 * would send the event where nobody registered. 410 ends the delivery for good.
 *
 * @param context.attempt from 1
 * @param context.random in [0, 1)
 */
export function judgeAttempt(
  result: SendResult,
  context: { attempt: number; at: Date; random: number },
): AttemptVerdict {
  if (result.ok && result.statusCode >= 200 && result.statusCode < 300)
    return { state: 'delivered' }
  if (result.ok && result.statusCode === 410) return { state: 'failed', isGone: true }
  const scheduled = RETRY_DELAYS_SECONDS[context.attempt]
  if (scheduled === undefined) return { state: 'failed', isGone: false }
  const asksForPause = result.ok && [429, 502, 503, 504].includes(result.statusCode)
  const asked = asksForPause ? Math.min(result.retryAfterSeconds ?? 0, MAX_DELAY_SECONDS) : 0
  const least = asksForPause ? Math.max(SLOW_DOWN_SECONDS, asked) : 0
  const seconds = Math.max(scheduled, least) * (1 + JITTER * context.random)
  return {
    state: 'pending',
    nextAttemptAt: new Date(context.at.getTime() + seconds * 1000),
    defer: asksForPause,
  }
}

/**
 * Reads a Retry-After header: seconds or a date.
 *
 * @returns null when there is none or it makes no sense
 */
export function parseRetryAfter(value: string | null, at: Date): number | null {
  if (value === null) return null
  if (/^\d{1,9}$/.test(value.trim())) return Number(value)
  const moment = Date.parse(value)
  return Number.isNaN(moment) ? null : Math.max(0, Math.ceil((moment - at.getTime()) / 1000))
}

async function attempt(
  deps: DeliverDeps,
  delivery: ClaimedDelivery,
  at: Date,
): Promise<'refused' | { result: SendResult }> {
  const checked = checkWebhookUrl(delivery.url, { allowLoopback: deps.allowLoopbackWebhooks })
  if (!checked.ok) return 'refused'
  const body = JSON.stringify(delivery.payload)
  const signature = await signWebhook(deps, signersOf(delivery), {
    id: delivery.eventId,
    at,
    body,
  })
  const result = await deps.sendWebhook({
    url: checked.url,
    headers: {
      ...signature,
      'content-type': 'application/json',
      'user-agent': 'Glyphpress-Webhooks/1',
    },
    body,
    timeoutMs: ATTEMPT_TIMEOUT_MS,
  })
  return { result }
}

function signersOf(delivery: ClaimedDelivery): WebhookSigner[] {
  const { endpoint } = delivery
  if (endpoint === null) return [{ id: delivery.orgId, version: 1 }]
  const current = { id: endpoint.id, version: endpoint.secretVersion }
  if (!endpoint.signsWithPrevious) return [current]
  return [current, { id: endpoint.id, version: endpoint.secretVersion - 1 }]
}

function errorOf(result: SendResult): string | null {
  if (!result.ok) return result.error
  if (result.statusCode >= 200 && result.statusCode < 300) return null
  return result.statusCode >= 300 && result.statusCode < 400 ? 'redirect_refused' : 'http_error'
}
