import { createId } from '../../db/ids.ts'
import { failureOf, toSeconds } from './client.ts'
import type { Stripe, StripeDeps } from './client.ts'
import { findMeterId } from './customer.ts'
import { sealWindow } from './seal.ts'

/** Their summaries lag behind the events by minutes; a difference counts only after this. */
const LAG_SECONDS = 3_600
const FIRST_LOOK_SECONDS = 300
/** A window is told anew this often; then a person has to look, and it is compared once a day. */
const MAX_REPEATS = 3
const ALARM_REPEAT_SECONDS = 86_400
const HOUR_MS = 3_600_000
/** A span of one call: as many summaries as three of their pages hold. */
const MAX_SPAN_MS = 300 * HOUR_MS

interface AcceptedWindow {
  id: string
  orgId: string
  customer: string
  meter: 'images' | 'items'
  channel: 'meter' | 'invoice_item'
  hour: Date
  quantity: bigint
  identifier: string
  acceptedAt: Date
  suspect: boolean
}

/**
 * Compares what Stripe's meter holds of accepted windows with what it was told. Equal: confirmed. Different for
 * longer than their summaries lag, or named in an error report: a new revision says the total again; after a few of
 * those an alarm is raised and stays until the two agree.
 *
 * @returns how many windows were looked at
 */
export async function reconcileDue(deps: StripeDeps, input: { limit: number }): Promise<number> {
  const now = deps.now()
  const rows = await deps.db.sql<AcceptedWindow[]>`
    update meter_report r set next_attempt_at = ${now}::timestamptz + make_interval(secs => ${FIRST_LOOK_SECONDS})
      from org o
     where o.id = r.org_id and r.id in (
       select id from meter_report m
        where state = 'accepted' and next_attempt_at <= ${now}
          and not exists (select 1 from meter_report f where f.org_id = m.org_id and f.meter = m.meter
                             and f.hour = m.hour and f.state in ('sealed', 'sending', 'unknown'))
          and (suspect or channel = 'invoice_item'
               or accepted_at <= ${now}::timestamptz - make_interval(secs => ${FIRST_LOOK_SECONDS}))
        order by next_attempt_at limit ${input.limit} for update skip locked)
    returning r.id, r.org_id as "orgId", o.stripe_customer_id as customer, r.meter, r.channel, r.hour, r.quantity,
              r.identifier, r.accepted_at as "acceptedAt", r.suspect`
  const items = rows.filter((row) => row.channel === 'invoice_item')
  for (const item of items) await confirmItem(deps, item)
  const metered = rows.filter((row) => row.channel === 'meter')
  const byOrg = Map.groupBy(metered, (row) => row.orgId)
  if (byOrg.size > 0) {
    const meterId = await findMeterId(deps)
    for (const windows of byOrg.values()) await compareOrg(deps, meterId, windows)
  }
  return rows.length
}

async function compareOrg(
  deps: StripeDeps,
  meterId: string,
  windows: AcceptedWindow[],
): Promise<void> {
  const ordered = windows.toSorted((a, b) => a.hour.getTime() - b.hour.getTime())
  while (ordered.length > 0) {
    const start = ordered[0]?.hour.getTime() ?? 0
    const span = ordered.filter(({ hour }) => hour.getTime() < start + MAX_SPAN_MS)
    ordered.splice(0, span.length)
    const last = span.at(-1)
    if (!last) return
    const theirs = await readSummaries(deps, {
      meterId,
      customer: last.customer,
      from: new Date(start),
      to: new Date(last.hour.getTime() + HOUR_MS),
    })
    for (const window of span) await judge(deps, window, theirs.get(window.hour.getTime()) ?? 0n)
  }
}

/** What Stripe's meter holds for each hour of a customer, by the hour's start in milliseconds; no entry = nothing. */
export async function readSummaries(
  deps: Pick<StripeDeps, 'stripe'>,
  span: { meterId: string; customer: string; from: Date; to: Date },
): Promise<Map<number, bigint>> {
  const pages = deps.stripe.billing.meters.listEventSummaries(span.meterId, {
    customer: span.customer,
    start_time: toSeconds(span.from),
    end_time: toSeconds(span.to),
    value_grouping_window: 'hour',
    limit: 100,
  })
  const hours = Math.ceil((span.to.getTime() - span.from.getTime()) / HOUR_MS)
  const summaries = await pages.autoPagingToArray({ limit: Math.min(hours + 1, 10_000) })
  return new Map(
    summaries.map((summary) => [
      summary.start_time * 1000,
      BigInt(Math.round(summary.aggregated_value)),
    ]),
  )
}

async function judge(deps: StripeDeps, window: AcceptedWindow, theirs: bigint): Promise<void> {
  if (theirs === window.quantity) return confirm(deps, window.id)
  const lagMs = deps.now().getTime() - window.acceptedAt.getTime()
  if (!window.suspect && lagMs < LAG_SECONDS * 1000) return
  const [row] = await deps.db.sql<{ repeats: number }[]>`
    select count(*)::int as repeats from meter_report
     where org_id = ${window.orgId} and meter = ${window.meter} and hour = ${window.hour}
       and state = 'failed' and error like 'summary%'`
  const isHopeless = (row?.repeats ?? 0) >= MAX_REPEATS
  if (isHopeless) {
    await deps.db.sql`
      update meter_report
         set next_attempt_at = ${deps.now()}::timestamptz + make_interval(secs => ${ALARM_REPEAT_SECONDS})
       where id = ${window.id} and state = 'accepted'`
  } else {
    const rows = await deps.db.sql`
      update meter_report set state = 'failed', error = ${`summary says ${theirs}`}
       where id = ${window.id} and state = 'accepted' returning id`
    if (rows.length > 0) await sealWindow(deps, window, true)
  }
  await recordDifference(deps, `meter:${window.orgId}`, {
    window: window.hour.toISOString(),
    identifier: window.identifier,
    ours: window.quantity.toString(),
    theirs: theirs.toString(),
    action: isHopeless ? 'alarm' : 'told again',
  })
}

async function confirm(deps: StripeDeps, id: string): Promise<void> {
  await deps.db.sql`
    update meter_report set state = 'confirmed', error = null where id = ${id} and state = 'accepted'`
}

/** Keeps a difference for the operator and says so in the log. */
export async function recordDifference(
  deps: Pick<StripeDeps, 'db' | 'log'>,
  scope: string,
  report: Record<string, string>,
): Promise<void> {
  await deps.db.sql`
    insert into recon_run (id, scope, differences, report)
    values (${createId('reconRun')}, ${scope}, 1, ${JSON.stringify(report)}::text::jsonb)`
  deps.log({ level: 'error', event: 'stripe_difference', scope, ...report })
}

/**
 * Stripe rejected some events of a meter after it had taken them. Its report names samples and not all of them, so
 * it is no repair list: everything accepted in that time is compared again, without waiting.
 */
export async function suspectWindows(
  deps: StripeDeps,
  report: { from: Date; to: Date; identifiers: readonly string[] },
): Promise<number> {
  const rows = await deps.db.sql`
    update meter_report set suspect = true, next_attempt_at = ${deps.now()}
     where state = 'accepted' and channel = 'meter'
       and (identifier = any(${[...report.identifiers]}::text[])
            or (accepted_at >= ${report.from}::timestamptz - interval '1 hour'
                and accepted_at <= ${report.to}::timestamptz + interval '1 hour'))
    returning id`
  return rows.length
}

/** Invoices of one customer that are searched for one whose answer was lost. */
const MAX_INVOICES = 100

/**
 * An accepted item waits for its invoice. The first one of a month gets an invoice of its own, since an org without
 * a subscription has no other; later corrections go on the next.
 */
async function confirmItem(deps: StripeDeps, item: AcceptedWindow): Promise<void> {
  if (item.meter !== 'items') return confirm(deps, item.id)
  try {
    const known = await deps.stripe.invoices
      .list({
        customer: item.customer,
        limit: 100,
        created: { gte: toSeconds(item.acceptedAt) - 3_600 },
      })
      .autoPagingToArray({ limit: MAX_INVOICES })
    const isThere = known.some((invoice: Stripe.Invoice) => invoice.metadata?.report_id === item.id)
    if (!isThere) {
      await deps.stripe.invoices.create(
        {
          customer: item.customer,
          auto_advance: true,
          pending_invoice_items_behavior: 'include',
          metadata: { report_id: item.id, org_id: item.orgId },
        },
        { idempotencyKey: `invoice:${item.id}` },
      )
    }
    await confirm(deps, item.id)
  } catch (error) {
    const failure = failureOf(error)
    deps.log({
      level: 'warn',
      event: 'invoice_not_made',
      identifier: item.identifier,
      error: failure.message,
    })
  }
}
