import type { StripeDeps } from './client.ts'
import { failureOf } from './client.ts'
import { ensureCustomer } from './customer.ts'
import { createInvoiceItemSink, createMeterSink } from './sink.ts'
import type { SinkOutcome, WindowReport } from './sink.ts'

/**
 * After it a sender counts as gone. Longer than a call may take with what comes before it, also by the clock of another
 * gateway: two of them may be five minutes off each, one ahead and one behind.
 */
const LEASE_SECONDS = 120 + 2 * 300
/** Calls to Stripe at once; each is of another customer. */
const CONCURRENCY = 8
const FIRST_RETRY_SECONDS = 5
const LAST_RETRY_SECONDS = 1_800

/**
 * Tells Stripe the revisions that are due: sealed -> sending -> accepted, unknown (repeated under the same
 * identifier) or failed. One per org at a time, so two revisions of a window can never overtake each other.
 *
 * @returns how many were sent, whatever came of it
 */
export async function sendDue(deps: StripeDeps, input: { limit: number }): Promise<number> {
  let sent = 0
  while (sent < input.limit) {
    const claimed = await claimReports(deps, Math.min(CONCURRENCY, input.limit - sent))
    if (claimed.length === 0) break
    await Promise.all(claimed.map((report) => sendReport(deps, report)))
    sent += claimed.length
  }
  return sent
}

async function claimReports(deps: StripeDeps, limit: number): Promise<WindowReport[]> {
  return await deps.db.sql<WindowReport[]>`
    select id, org_id as "orgId", meter, hour, channel, quantity, due_micros as "dueMicros",
           base_quantity as "baseQuantity", base_micros as "baseMicros", identifier, attempts,
           sealed_at as "sealedAt"
      from claim_reports(${limit}, make_interval(secs => ${LEASE_SECONDS}), ${deps.now()})`
}

async function sendReport(deps: StripeDeps, report: WindowReport): Promise<void> {
  const outcome = await tell(deps, report)
  const now = deps.now()
  const state = { accepted: 'accepted', unknown: 'unknown', busy: 'sealed', failed: 'failed' }[
    outcome.kind
  ]
  // What may have been applied once stays unknown, also when a later repeat was only turned away.
  const kept = outcome.kind === 'busy' && (await wasUnknown(deps, report)) ? 'unknown' : state
  const error = outcome.kind === 'accepted' ? null : outcome.error
  const next = outcome.kind === 'accepted' ? now : retryAt(now, report.attempts)
  await deps.db.sql`
    select finish_report(${report.id}, ${report.attempts}, ${kept}, ${error}, ${next}, ${now})`
  if (outcome.kind === 'failed') {
    deps.log({
      level: 'error',
      event: 'meter_report_failed',
      org_id: report.orgId,
      identifier: report.identifier,
      error,
    })
  }
}

async function tell(deps: StripeDeps, report: WindowReport): Promise<SinkOutcome> {
  let customer: string
  try {
    customer = await ensureCustomer(deps, report.orgId)
  } catch (error) {
    return { kind: 'busy', error: failureOf(error).message }
  }
  const sink = report.channel === 'meter' ? createMeterSink(deps) : createInvoiceItemSink(deps)
  return sink.report(customer, report)
}

async function wasUnknown(deps: StripeDeps, report: WindowReport): Promise<boolean> {
  const [row] = await deps.db.sql<{ error: string | null }[]>`
    select error from meter_report where id = ${report.id}`
  return report.attempts > 1 && row !== undefined && row.error !== null
}

function retryAt(now: Date, attempts: number): Date {
  const seconds = Math.min(
    FIRST_RETRY_SECONDS * 2 ** Math.min(attempts - 1, 12),
    LAST_RETRY_SECONDS,
  )
  // Spread, so that the customers of an outage do not come back in one moment.
  return new Date(now.getTime() + seconds * 1000 * (0.75 + Math.random() / 2))
}
