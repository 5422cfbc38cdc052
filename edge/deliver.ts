import type { Db } from '../db/client.ts'
import { cancelDelivery, recordAttempt } from '../db/webhook-attempts.ts'
import type { AttemptVerdict, ClaimedDelivery } from '../db/webhook-attempts.ts'
import type { Metrics } from './metrics.ts'
import type { Peppers } from './pepper.ts'
import { passTraceOn } from './tracing.ts'
import type { StartSpan, TracedSpan } from './tracing.ts'
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
  /** Absent: nobody reads it. */
  log?: (entry: Record<string, unknown>) => void
  metrics?: Metrics
  startSpan?: StartSpan
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
/** Least pause of an endpoint whose receiver says it is overloaded. */
const SLOW_DOWN_SECONDS = 60
/** Bound on the pause that a receiver may ask for by Retry-After. */
const MAX_PAUSE_SECONDS = 86_400
/** How a receiver, or the proxy before it, says that there is too much for it. */
const OVERLOADED: readonly number[] = [429, 502, 503, 504]

export type DeliveryOutcome =
  'delivered' | 'retried' | 'failed' | 'canceled' | 'superseded' | 'abandoned'

/**
 * Makes one attempt for a claimed delivery and records it. At least once: a crash before the record repeats
 * the attempt after the claim's lease, with the same `webhook-id`.
 *
 * @param stop.isCut true once this process cuts its connections: an attempt without an answer then says
 *   nothing of its receiver, so it is not recorded and the lease brings the delivery back
 */
export async function deliver(
  deps: DeliverDeps,
  delivery: ClaimedDelivery,
  stop: { readonly isCut: boolean } = { isCut: false },
): Promise<DeliveryOutcome> {
  if (!delivery.isWanted) {
    await cancelDelivery(deps.db, { deliveryId: delivery.id })
    return 'canceled'
  }
  const startedAt = deps.now()
  const { startSpan = passTraceOn } = deps
  const span = startSpan('webhook', { kind: 'client', parent: delivery.traceparent })
  const sent = await span.run(() => attempt(deps, delivery, { at: startedAt, span }))
  const isCut = stop.isCut && sent !== 'refused' && !sent.result.ok
  const endedAt = deps.now()
  const outcome = isCut ? 'abandoned' : await record(deps, { delivery, sent, startedAt, endedAt })
  tell(deps, { delivery, outcome, sent, span, durationMs: endedAt.getTime() - startedAt.getTime() })
  return outcome
}

type Sent = 'refused' | { result: SendResult }

async function record(
  deps: DeliverDeps,
  made: { delivery: ClaimedDelivery; sent: Sent; startedAt: Date; endedAt: Date },
): Promise<DeliveryOutcome> {
  const { delivery, sent, startedAt, endedAt } = made
  const verdict: AttemptVerdict =
    sent === 'refused'
      ? { state: 'failed', isGone: false, deferUntil: null }
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

/** One line, one count and one span for each attempt. */
function tell(
  { log, metrics }: DeliverDeps,
  attempt: {
    delivery: ClaimedDelivery
    outcome: DeliveryOutcome
    sent: Sent
    span: TracedSpan
    durationMs: number
  },
): void {
  const { delivery, outcome, sent, span, durationMs } = attempt
  const answer = answerOf(sent)
  metrics?.delivery({ outcome, answer, attempt: delivery.attempt, seconds: durationMs / 1_000 })
  span.set({
    'glyphpress.delivery_id': delivery.id,
    'glyphpress.attempt': delivery.attempt,
    'glyphpress.outcome': outcome,
    'glyphpress.answer': answer,
  })
  span.end(outcome === 'delivered' ? undefined : answer)
  log?.({
    level: 'info',
    event: 'webhook_attempt',
    delivery: delivery.id,
    about: delivery.eventId,
    attempt: delivery.attempt,
    outcome,
    answer,
    durationMs,
    ...(delivery.requestId !== null && { request_id: delivery.requestId }),
    ...(span.traceId !== undefined && { trace_id: span.traceId }),
  })
}

/** `2xx` to `5xx`, or why there was no answer. */
function answerOf(sent: Sent): string {
  if (sent === 'refused') return 'url_refused'
  return sent.result.ok ? `${Math.floor(sent.result.statusCode / 100)}xx` : sent.result.error
}

/**
 * What follows from an attempt. Success is 2xx and nothing else: a redirect is a failure, as following it
 * would send the event where nobody registered. 410 ends the delivery for good. An overloaded receiver's
 * endpoint pauses for as long as it asked, whatever the schedule of this one delivery says.
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
  const isGone = result.ok && result.statusCode === 410
  const after = (seconds: number) => new Date(context.at.getTime() + seconds * 1000)
  const pauseSeconds = pauseOf(result)
  const deferUntil = pauseSeconds === 0 ? null : after(pauseSeconds)
  const scheduled = RETRY_DELAYS_SECONDS[context.attempt]
  if (isGone || scheduled === undefined) return { state: 'failed', isGone, deferUntil }
  const seconds = Math.max(scheduled, pauseSeconds) * (1 + JITTER * context.random)
  return { state: 'pending', nextAttemptAt: after(seconds), deferUntil }
}

function pauseOf(result: SendResult): number {
  if (!result.ok || !OVERLOADED.includes(result.statusCode)) return 0
  return Math.min(Math.max(SLOW_DOWN_SECONDS, result.retryAfterSeconds ?? 0), MAX_PAUSE_SECONDS)
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
  { at, span }: { at: Date; span: TracedSpan },
): Promise<Sent> {
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
      ...(span.traceparent !== undefined && { traceparent: span.traceparent }),
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
