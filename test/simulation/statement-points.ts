/** A named place of the product at which a database fault can fire. */
export interface StatementPoint {
  readonly name: string
  /** How likely a fault is at each execution during a storm. */
  readonly rate: number
}

/** Part of a statement's text, its name, and the rate; the first that fits counts. */
const STATEMENTS: readonly (readonly [text: string, name: string, rate: number])[] = [
  ['reserve_jobs(', 'reserve', 0.4],
  ['started_at = coalesce', 'claim', 0.3],
  ['"job"."attempt" =', 'claim: read job', 0.2],
  ['from "job_output"', 'claim: read images', 0.2],
  ['insert into job_output', 'image complete', 0.4],
  ['insert into job_tokens', 'keep tokens', 0.3],
  ['from job_tokens', 'claim: read tokens', 0.2],
  ['select 1 from job_output', 'image complete: late', 0.3],
  ['progress = coalesce', 'heartbeat', 0.4],
  ['failed_attempts = failed_attempts +', 'give back', 0.45],
  ['cancel_requested_at = coalesce', 'cancel: ask', 0.5],
  ['order by deadline_at', 'expire: find', 0.35],
  ['update outbox set attempts', 'outbox: take', 0.35],
  ['update outbox set done_at', 'outbox: mark sent', 0.35],
  ["':' || extract(epoch", 'outbox: restage', 0.35],
  [':dead:', 'dead letter: restage', 0.4],
  ['grant_credit(', 'grant credit', 0.45],
  ['from credit_grant where remaining', 'expire credit: find', 0.2],
  ['expire_grant(', 'expire credit', 0.5],
  ['refund_images(', 'refund', 0.5],
  ['correct_moved_usage(', 'move key: correct usage', 0.5],
  ['move_key(', 'move key', 0.5],
  ['set_budget(', 'set limits', 0.5],
  ['pg_stat_activity', 'close statement: may it', 0.2],
  ['insert into statement', 'close statement: store', 0.4],
  ['from statement', 'close statement: find', 0.2],
  ['seal_due(', 'seal', 0.35],
  ['seal_window(', 'seal again', 0.4],
  ['claim_reports(', 'send: claim', 0.35],
  ['finish_report(', 'send: acknowledge', 0.35],
  ['update meter_report r set', 'compare: take', 0.35],
  ["set state = 'confirmed'", 'compare: confirm', 0.35],
  ['insert into stripe_event', 'webhook insert', 0.45],
  ['update stripe_event set attempts', 'webhook claim', 0.2],
  ['update stripe_event set applied_at', 'webhook applied', 0.3],
  ['insert into topup', 'top-up: start', 0.35],
  ['set checkout_session', 'top-up: keep page', 0.3],
  ['for update of t', 'top-up: lock', 0.25],
  ["update topup set state = 'paid'", 'top-up: paid', 0.25],
  ['update org set stripe_customer_id', 'customer: keep', 0.4],
  ['insert into dispute', 'dispute: keep', 0.3],
  ['withdraw_credit(', 'returned payment', 0.3],
  ['refresh_freeze(', 'freeze', 0.15],
  ['insert into invoice ', 'invoice: keep', 0.2],
  ['fold_balances(', 'balances: fold', 0.2],
  ['with due as materialized', 'delivery: claim', 0.25],
  ['insert into webhook_attempt', 'delivery: log', 0.25],
  ['update webhook_delivery set state', 'delivery: result', 0.25],
]

/** The same statement ends jobs in four ways; its document says which. */
const ENDINGS: readonly (readonly [text: string, name: string])[] = [
  ['"outcome":"succeeded"', 'capture'],
  ['"outcome":"failed"', 'release: failed'],
  ['"outcome":"canceled"', 'release: cancel'],
  ['"outcome":"expired"', 'release: expire'],
]

const COMMIT_RATE = 0.3
/** Reads of several statements in a row: at a higher rate none of those would ever come through. */
const OTHER: StatementPoint = { name: 'other statement', rate: 0.02 }

const known = new Map<string, StatementPoint>()

/**
 * Names a statement by what it calls.
 *
 * @param readBind the parameters' bytes, looked at only where the text alone does not tell
 */
export function pointOf(sql: string, readBind: () => string): StatementPoint {
  if (sql.includes('settle_job(')) {
    const bind = readBind()
    const ending = ENDINGS.find(([text]) => bind.includes(text))
    return { name: ending?.[1] ?? 'capture', rate: 0.45 }
  }
  const found = known.get(sql)
  if (found) return found
  const statement = STATEMENTS.find(([text]) => sql.includes(text))
  const point = statement ? { name: statement[1], rate: statement[2] } : OTHER
  known.set(sql, point)
  return point
}

/** The commit of the transaction in which this point was the last one named. */
export function commitOf(last: StatementPoint | null): StatementPoint {
  return { name: `${last?.name ?? 'reading'}: commit`, rate: COMMIT_RATE }
}

/** Statements of driver and transaction that change nothing. */
export function isPlumbing(sql: string): boolean {
  return /^\s*(begin|rollback|set |discard|select b\.oid)/i.test(sql)
}
