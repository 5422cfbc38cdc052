import { lookup } from 'node:dns/promises'
import { isIP } from 'node:net'
import type { LookupFunction } from 'node:net'
import { Agent, buildConnector, request as sendRequest } from 'undici'
import { parseRetryAfter } from '../deliver.ts'
import type { SendResult, SendWebhook } from '../deliver.ts'
import { isRefusedAddress } from '../webhook-address.ts'

/** Finds all addresses of a name. */
export type Resolve = (hostname: string) => Promise<{ address: string; family: number }[]>

/** TCP and TLS together; a receiver that takes longer is down. */
const CONNECT_TIMEOUT_MS = 10_000
/** A connection is kept for the next events of the same receiver only briefly. */
const KEEP_ALIVE_MS = 4_000
/** Sockets to one receiver at a time; more would be an attack by us. */
const CONNECTIONS_PER_ORIGIN = 8
/** Answers are not read; this much is drained so that a well-behaved connection can be used again. */
const DRAIN_BYTES = 1024
const DRAIN_TIMEOUT_MS = 1_000
/** Bound on the answer's headers. */
const MAX_HEADER_BYTES = 16_384

const REFUSED = 'ERR_ADDRESS_REFUSED'

/**
 * The sender on Node. Every address that a name resolves to is checked inside the lookup that the connection
 * itself uses, so that a name cannot change between check and connect; one refused address refuses the
 * name. Addresses written in the URL are checked before the connection, and the peer's address once more
 * after it. No proxy from the environment is used, no redirect followed.
 *
 * @param options.resolve the system's resolver by default
 */
export function createNodeWebhookSender(options: { allowLoopback: boolean; resolve?: Resolve }): {
  send: SendWebhook
  /** Ends kept connections. */
  close: () => Promise<void>
} {
  const agent = new Agent({
    connect: createConnector(options.allowLoopback, options.resolve ?? resolveBySystem),
    connections: CONNECTIONS_PER_ORIGIN,
    pipelining: 1,
    keepAliveTimeout: KEEP_ALIVE_MS,
    keepAliveMaxTimeout: KEEP_ALIVE_MS,
    maxHeaderSize: MAX_HEADER_BYTES,
  })
  return {
    send: (request) => send(agent, request),
    close: () => agent.destroy(),
  }
}

async function send(agent: Agent, request: Parameters<SendWebhook>[0]): Promise<SendResult> {
  try {
    const response = await sendRequest(request.url, {
      method: 'POST',
      dispatcher: agent,
      headers: request.headers,
      body: request.body,
      headersTimeout: request.timeoutMs,
      bodyTimeout: request.timeoutMs,
      signal: AbortSignal.timeout(request.timeoutMs),
    })
    await response.body
      .dump({ limit: DRAIN_BYTES, signal: AbortSignal.timeout(DRAIN_TIMEOUT_MS) })
      .catch(() => {})
    const retryAfter = response.headers['retry-after']
    return {
      ok: true,
      statusCode: response.statusCode,
      retryAfterSeconds: parseRetryAfter(
        typeof retryAfter === 'string' ? retryAfter : null,
        new Date(),
      ),
    }
  } catch (error) {
    return { ok: false, error: toFailure(error) }
  }
}

function createConnector(allowLoopback: boolean, resolve: Resolve): buildConnector.connector {
  const connect = buildConnector({
    timeout: CONNECT_TIMEOUT_MS,
    lookup: checkedLookup(allowLoopback, resolve),
  })
  return (target, callback) => {
    if (isIP(target.hostname) !== 0 && isRefusedAddress(target.hostname, { allowLoopback }))
      return callback(refusal(), null)
    connect(target, (error, socket) => {
      if (error !== null) return callback(error, null)
      if (isRefusedAddress(socket.remoteAddress ?? '', { allowLoopback })) {
        socket.destroy()
        return callback(refusal(), null)
      }
      callback(null, socket)
    })
  }
}

function checkedLookup(allowLoopback: boolean, resolve: Resolve): LookupFunction {
  return (hostname, options, callback) => {
    resolve(hostname).then(
      (addresses) => {
        const [first] = addresses
        if (first === undefined) return callback(notFound(), '', 0)
        if (addresses.some(({ address }) => isRefusedAddress(address, { allowLoopback })))
          return callback(refusal(), '', 0)
        if (options.all === true) return callback(null, addresses)
        callback(null, first.address, first.family)
      },
      (error: unknown) => callback(error instanceof Error ? error : notFound(), '', 0),
    )
  }
}

function resolveBySystem(hostname: string): Promise<{ address: string; family: number }[]> {
  return lookup(hostname, { all: true, order: 'verbatim' })
}

function refusal(): Error {
  return Object.assign(new Error('address is not public'), { code: REFUSED })
}

function notFound(): Error {
  return Object.assign(new Error('name has no address'), { code: 'ENOTFOUND' })
}

function toFailure(error: unknown): Extract<SendResult, { ok: false }>['error'] {
  if (!(error instanceof Error)) return 'connection_failed'
  const code = 'code' in error && typeof error.code === 'string' ? error.code : ''
  if (code === REFUSED) return 'address_not_public'
  if (
    error.name === 'TimeoutError' ||
    error.name === 'AbortError' ||
    /TIMEOUT|ETIMEDOUT/.test(code)
  )
    return 'timeout'
  if (/^(ENOTFOUND|EAI_|ENODATA|ESERVFAIL)/.test(code)) return 'dns_failed'
  if (/CERT|TLS|SSL|UNABLE_TO_|SIGNATURE|EPROTO/.test(code)) return 'tls_failed'
  return 'connection_failed'
}
