import { parseRetryAfter } from './deliver.ts'
import type { SendResult, SendWebhook } from './deliver.ts'

/**
 * The sender on Cloudflare Workers.
 *
 * There is no hook to look at the resolved address here. What stands in its place: the caller has checked
 * the URL's text (`checkWebhookUrl`), and the platform's own `fetch` leaves from Cloudflare's public edge,
 * which has no route to private, loopback or metadata addresses of anybody; a Worker has no network
 * neighbours. Whoever connects the account to a private network (a VPC binding is used by name and never by
 * this fetch) and wants the check at connect time runs the sweep on Node instead.
 */
export function createWorkersWebhookSender(): SendWebhook {
  return async (request) => {
    try {
      const response = await fetch(request.url, {
        method: 'POST',
        headers: request.headers,
        body: request.body,
        redirect: 'manual',
        signal: AbortSignal.timeout(request.timeoutMs),
      })
      // The answer's text is of no interest and may be endless.
      await response.body?.cancel()
      return {
        ok: true,
        statusCode: response.status,
        retryAfterSeconds: parseRetryAfter(response.headers.get('retry-after'), new Date()),
      }
    } catch (error) {
      return toFailure(error)
    }
  }
}

function toFailure(error: unknown): SendResult {
  const isTimeout = error instanceof Error && error.name === 'TimeoutError'
  return { ok: false, error: isTimeout ? 'timeout' : 'connection_failed' }
}
