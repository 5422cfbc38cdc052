import type { Db } from './client.ts'

/** How the service does, from the books: sums without a tenant's name. Ages in seconds, null where nothing is that old. */
export interface ServiceState {
  jobs: {
    /** Accepted and not in the hands of a live worker, by priority; those past their deadline are not among them. */
    waiting: Record<'standard' | 'batch', number>
    running: number
    /** Past their deadline and not ended yet. */
    overdue: number
    /** Of the standard jobs that nobody has begun. */
    oldestWaitSeconds: number | null
    /** Of the jobs whose message never left. */
    oldestUnsentSeconds: number | null
    /** From accepted to begun, of those begun in the last hour. */
    medianWaitSeconds: number | null
    lastBegunAt: Date | null
    lastSucceededAt: Date | null
  }
  /** That said within the last minute that they are there. */
  workers: { seen: number; slots: number; busy: number }
  /** Messages to the queue that did not leave yet. */
  outbox: { unsent: number }
  webhooks: { due: number; oldestDueSeconds: number | null; lastDeliveredAt: Date | null }
  ledger: { unfoldedSeconds: number | null }
  stripe: {
    /** Totals that are written down and not told yet. */
    unsentReports: number
    oldestUnsentSeconds: number | null
    /** Since the end of the last hour that was summed up; null before the first. */
    unsealedSeconds: number | null
    unappliedEvents: number
    oldestUnappliedSeconds: number | null
    lastAcceptedAt: Date | null
  }
}

/** More open jobs than any fleet works off in a day. */
const MAX_OPEN = 20_000
/** The newest jobs, in which those of the last hour are looked for. */
const MAX_RECENT = 1_000
/** Rows that are counted one by one; above it the figure stands for "at least so many". */
const MAX_COUNTED = 10_000
const SEEN_WITHIN_SECONDS = 60

/**
 * Reads all of it in one snapshot. The statement looks at a bounded number of rows by their indexes: some milliseconds,
 * however large the tables are.
 */
export async function readServiceState(db: Db): Promise<ServiceState> {
  const [row] = await db.sql<StateRow[]>`
    with open as materialized (
      select created_at, started_at, priority, state, deadline_at > now() as is_wanted,
             state = 'running' and lease_until > now() as is_running
        from job where finished_at is null order by created_at limit ${MAX_OPEN}::int
    ), jobs as (
      select (count(*) filter (where is_running))::int as running,
             (count(*) filter (where is_wanted and not is_running and priority = 'standard'))::int as waiting_standard,
             (count(*) filter (where is_wanted and not is_running and priority = 'batch'))::int as waiting_batch,
             (count(*) filter (where not is_wanted))::int as overdue,
             extract(epoch from now() - min(created_at) filter (
               where is_wanted and not is_running and priority = 'standard' and started_at is null))::float8 as oldest_wait,
             extract(epoch from now() - min(created_at) filter (
               where is_wanted and state = 'accepted'))::float8 as oldest_unsent
        from open
    ), recent as materialized (
      select created_at, started_at, finished_at, state from job order by id desc limit ${MAX_RECENT}::int
    ), begun as (
      select (percentile_cont(0.5) within group (order by extract(epoch from started_at - created_at))
               filter (where started_at > now() - interval '1 hour'))::float8 as median_wait,
             max(started_at) as last_begun, max(finished_at) filter (where state = 'succeeded') as last_succeeded
        from recent
    ), workers as (
      select count(*)::int as seen, coalesce(sum(slots), 0)::int as slots, coalesce(sum(busy), 0)::int as busy
        from worker where seen_at > now() - make_interval(secs => ${SEEN_WITHIN_SECONDS})
    ), unsent as (
      select count(*)::int as unsent from (select from outbox where done_at is null limit ${MAX_COUNTED}::int) o
    ), due as (
      select count(*)::int as due, extract(epoch from now() - min(next_attempt_at))::float8 as oldest_due
        from (select next_attempt_at from webhook_delivery where state = 'pending' and next_attempt_at <= now()
               order by next_attempt_at limit ${MAX_COUNTED}::int) d
    ), delivered as (
      select max(delivered_at) as last_delivered
        from (select delivered_at from webhook_delivery order by id desc limit ${MAX_RECENT}::int) d
    ), ledger as (
      select extract(epoch from now() - (
               select t.occurred_at from ledger_entry e join ledger_txn t on t.id = e.txn_id
                where e.id > coalesce((select folded_to from ledger_watermark where projection = 'balances'), 0)
                order by e.id limit 1))::float8 as unfolded
    ), reports as (
      select count(*)::int as unsent_reports, extract(epoch from now() - min(sealed_at))::float8 as oldest_report
        from (select sealed_at from meter_report where state in ('sealed', 'sending', 'unknown')
               limit ${MAX_COUNTED}::int) r
    ), events as (
      select count(*)::int as unapplied, extract(epoch from now() - min(received_at))::float8 as oldest_event
        from (select received_at from stripe_event where applied_at is null limit ${MAX_COUNTED}::int) e
    )
    select jobs.*, begun.*, workers.*, unsent.*, due.*, delivered.*, ledger.*, reports.*, events.*,
           extract(epoch from now() - (select sealed_to from seal_progress where meter = 'images'))::float8 as unsealed,
           (select max(accepted_at) from (
              select accepted_at from meter_report order by id desc limit ${MAX_RECENT}::int) r) as last_accepted
      from jobs, begun, workers, unsent, due, delivered, ledger, reports, events`
  if (!row) throw new Error('the state of the service was not read')
  return toState(row)
}

interface StateRow {
  running: number
  waiting_standard: number
  waiting_batch: number
  overdue: number
  oldest_wait: number | null
  oldest_unsent: number | null
  median_wait: number | null
  last_begun: Date | null
  last_succeeded: Date | null
  seen: number
  slots: number
  busy: number
  unsent: number
  due: number
  oldest_due: number | null
  last_delivered: Date | null
  unfolded: number | null
  unsent_reports: number
  oldest_report: number | null
  unapplied: number
  oldest_event: number | null
  unsealed: number | null
  last_accepted: Date | null
}

function toState(row: StateRow): ServiceState {
  return {
    jobs: {
      waiting: { standard: row.waiting_standard, batch: row.waiting_batch },
      running: row.running,
      overdue: row.overdue,
      oldestWaitSeconds: row.oldest_wait,
      oldestUnsentSeconds: row.oldest_unsent,
      medianWaitSeconds: row.median_wait,
      lastBegunAt: row.last_begun,
      lastSucceededAt: row.last_succeeded,
    },
    workers: { seen: row.seen, slots: row.slots, busy: row.busy },
    outbox: { unsent: row.unsent },
    webhooks: {
      due: row.due,
      oldestDueSeconds: row.oldest_due,
      lastDeliveredAt: row.last_delivered,
    },
    ledger: { unfoldedSeconds: row.unfolded },
    stripe: {
      unsentReports: row.unsent_reports,
      oldestUnsentSeconds: row.oldest_report,
      unsealedSeconds: row.unsealed,
      unappliedEvents: row.unapplied,
      oldestUnappliedSeconds: row.oldest_event,
      lastAcceptedAt: row.last_accepted,
    },
  }
}
