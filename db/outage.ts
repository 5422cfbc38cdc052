/** Of sockets and of the driver: there is no connection, or there is none any more. */
const NO_CONNECTION =
  /^(CONNECT|ECONN|EPIPE$|EHOSTUNREACH$|ENETUNREACH$|ENOTFOUND$|EAI_AGAIN$|ETIMEDOUT$)/
/** The server's: for shutdown and start, want of room, failover to a standby, deadlock and timeouts. */
const PASSING = /^(08|53|57P0|57014$|25006$|25P03$|40001$|40P01$|55P03$)/
/** With these the connection broke off after the statement may have been sent. */
const BROKEN_OFF = /^(CONNECTION_|ECONNRESET$|ECONNABORTED$|EPIPE$|ETIMEDOUT$|57P01$|57P02$|08)/
/** Sockets of Workers fail with a sentence and no code. */
const WORKERS_NO_CONNECTION = /cannot connect to the specified address|network connection lost/i
const WORKERS_BROKEN_OFF = /network connection lost/i

/**
 * Whether an error of the database means that the same statement may succeed later, as opposed to a refusal or a
 * bug. Wrapped errors are looked into.
 */
export function isOutage(error: unknown): boolean {
  const code = codeOf(error)
  return NO_CONNECTION.test(code) || PASSING.test(code) || hasText(error, WORKERS_NO_CONNECTION)
}

/** Whether the connection broke when a statement may already have been done: its outcome is not known. */
export function isOutcomeUnknown(error: unknown): boolean {
  return BROKEN_OFF.test(codeOf(error)) || hasText(error, WORKERS_BROKEN_OFF)
}

/** Whether the connection that met this error is of no more use. */
export function isConnectionLost(error: unknown): boolean {
  const { code, severity } = rootOf(error)
  return NO_CONNECTION.test(code) || severity === 'FATAL' || severity === 'PANIC'
}

/** The code of an error or of what caused it (the query builder wraps the driver's errors); '' when it has none. */
export function codeOf(error: unknown): string {
  return rootOf(error).code
}

function rootOf(error: unknown): { code: string; severity: string } {
  if (!(error instanceof Error)) return { code: '', severity: '' }
  if (!('code' in error) || typeof error.code !== 'string') return rootOf(error.cause)
  const severity = 'severity' in error ? String(error.severity) : ''
  return { code: error.code, severity }
}

function hasText(error: unknown, pattern: RegExp): boolean {
  return error instanceof Error && (pattern.test(error.message) || hasText(error.cause, pattern))
}
