/** Of sockets, of the driver and of Postgres while it starts, stops or has no room. */
const UNREACHABLE = /^(CONNECT|ECONN|EPIPE|ENOTFOUND|ETIMEDOUT|57P0|08|53)/
/** Of these the statement never began. */
const NEVER_SENT = /^(CONNECT_TIMEOUT|ECONNREFUSED|ENOTFOUND|57P03|53)/
/** Sockets of Workers fail with a sentence and no code. */
const WORKERS_UNREACHABLE = /cannot connect to the specified address|network connection lost/i
const WORKERS_LOST = /network connection lost/i

/** Whether the database could not be reached or broke off; wrapped errors are looked into. */
export function isUnreachable(error: unknown): boolean {
  return UNREACHABLE.test(codeOf(error)) || hasText(error, WORKERS_UNREACHABLE)
}

/** Whether the connection broke when a statement may already have been done: its outcome is not known. */
export function isOutcomeUnknown(error: unknown): boolean {
  const code = codeOf(error)
  return (UNREACHABLE.test(code) && !NEVER_SENT.test(code)) || hasText(error, WORKERS_LOST)
}

/** The code of an error or of what caused it (the query builder wraps the driver's errors); '' when it has none. */
export function codeOf(error: unknown): string {
  if (!(error instanceof Error)) return ''
  return 'code' in error && typeof error.code === 'string' ? error.code : codeOf(error.cause)
}

function hasText(error: unknown, pattern: RegExp): boolean {
  return error instanceof Error && (pattern.test(error.message) || hasText(error.cause, pattern))
}
