import { SEAL_GRACE_SECONDS, startOfHour } from '../../billing/stripe/seal.ts'
import { finalizeDue } from '../support/fake-stripe/invoicing.ts'
import { processMeterEvents } from '../support/fake-stripe/metering.ts'
import { pace } from './pace.ts'
import type { DeadWorkers } from './workers.ts'
import type { World } from './world.ts'

const MINUTE_MS = 60_000
/** In all during one storm: less than Stripe remembers an identifier for. */
const MAX_STORM_MINUTES = 900

/**
 * Lets time pass where the product waits for it: leases of dead workers, the queue's visibility, messages left to
 * their writer, Stripe's hours. Rows are set back, as PostgreSQL's own clock cannot be turned.
 */
export async function passTime(
  world: World,
  input: { dead: DeadWorkers; isOver: () => boolean },
): Promise<void> {
  const random = world.random('time')
  let minutes = 0
  let sealing: Turning = { lines: 0n, isBack: false }
  while (!input.isOver()) {
    await pace(world.isQuiet() ? 100 : 250, async () => {
      await lapse(world, input.dead)
      // Stripe takes a while to count what it was told.
      if (world.isQuiet() || random.chance(0.5)) processMeterEvents(world.fake.state)
      await finalizeInvoices(world)
      sealing = await turnBackSealing(world, sealing)
    })
    if (world.isQuiet()) continue
    if (random.chance(0.7)) await lapseLiveLease(world)
    if (random.chance(0.2)) await passDeadline(world)
    if (random.chance(0.25)) await endGrants(world)
    if (minutes < MAX_STORM_MINUTES) {
      const step = 15 + random.int(60)
      minutes += step
      // What was told before is counted within the hour, as Stripe has it: later than that it counts as dropped.
      processMeterEvents(world.fake.state)
      world.fake.advance(step * MINUTE_MS)
    }
  }
}

async function lapse(world: World, dead: DeadWorkers): Promise<void> {
  const { sql } = world.direct
  if (dead.size > 0) {
    await sql`
      update job set lease_until = now() - interval '1 second'
       where state = 'running' and worker_id = any(${[...dead]})`
  }
  await sql`
    update outbox set available_at = least(available_at, now() - interval '1 minute') where done_at is null`
  await sql`
    update job set created_at = least(created_at, now() - interval '1 hour'),
                   dispatched_at = dispatched_at - interval '20 minutes'
     where state in ('accepted', 'queued', 'running')
       and coalesce(dispatched_at, created_at) > now() - interval '10 minutes' and random() < 0.1`
  world.queue.expireVisibility(dead)
}

/** Stripe waits an hour before it finalises a draft; here that is until its webhook was applied, however long it takes. */
async function finalizeInvoices(world: World): Promise<void> {
  const { state } = world.fake
  const drafts = [...state.invoices.values()].filter(({ status }) => status === 'draft')
  if (drafts.length === 0) return
  const known = await world.direct.sql`
    select 1 from invoice where id = any(${drafts.map(({ id }) => id)})`
  if (known.length === drafts.length) finalizeDue(state)
}

/** How far sealing was turned back for. */
interface Turning {
  /** Of usage and corrections, when it was looked at last. */
  lines: bigint
  isBack: boolean
}

/**
 * Stripe's clock is ahead of PostgreSQL's, which dates usage: what was written since the last look lies before the mark
 * up to which hours count as looked through. The product allows for an hour of such lateness and not for days.
 *
 * The mark moves only while nobody seals: who had begun before would put it forward again, past what it never saw.
 */
async function turnBackSealing(world: World, before: Turning): Promise<Turning> {
  const { sql } = world.direct
  const [row] = await sql<{ lines: bigint }[]>`
    select (select count(*) from usage_event) + (select count(*) from usage_correction) as lines`
  const lines = row?.lines ?? 0n
  if (lines !== before.lines) {
    await sql.begin(async (tx) => {
      await tx`select pg_advisory_xact_lock(hashtext('seal images'))`
      await tx`select pg_advisory_xact_lock(hashtext('seal items'))`
      await tx`update seal_progress set sealed_to = least(sealed_to, now())`
    })
    return { lines, isBack: true }
  }
  if (!before.isBack) return before
  // The product has looked through the hour in which everything lies; the empty ones up to Stripe's time are a walk.
  const next = new Date(world.fake.state.nowMs - SEAL_GRACE_SECONDS * 1000)
  const moved = await sql`
    update seal_progress set sealed_to = greatest(sealed_to, ${startOfHour(next)}::timestamptz)
     where meter = 'images' and sealed_to > now() + interval '30 minutes'`
  return { lines, isBack: moved.count === 0 }
}

/** A worker that lives is too late with its heartbeat: another takes the job, and the first one goes on. */
async function lapseLiveLease(world: World): Promise<void> {
  const rows = await world.direct.sql<{ id: string }[]>`
    update job set lease_until = now() - interval '1 second'
     where id = (select id from job where state = 'running' and lease_until > now() order by random() limit 1)
    returning id`
  const [lapsed] = rows
  if (!lapsed) return
  world.ledger.note('worker', 'lease lapsed while it worked')
  // Whatever held it up held up the beats of its message too.
  world.queue.showJob(lapsed.id)
}

async function passDeadline(world: World): Promise<void> {
  const rows = await world.direct.sql`
    update job set deadline_at = now() - interval '1 second'
     where id = (select id from job where state in ('accepted', 'queued', 'running') order by random() limit 1)
    returning id`
  if (rows.length > 0) world.ledger.note('job', 'deadline passed')
}

async function endGrants(world: World): Promise<void> {
  await world.direct.sql`
    update credit_grant set expires_at = now() - interval '1 second'
     where expires_at > now() and random() < 0.5`
}

/**
 * A month passes for orgs that Stripe does not bill: what they have done lies in the month before, with the room of
 * its budgets. Nothing of theirs may be under way.
 */
export async function passMonth(world: World): Promise<void> {
  const orgIds = world.tenants.filter(({ mode }) => mode !== 'postpaid').map(({ orgId }) => orgId)
  await world.direct.sql.begin(async (sql) => {
    await sql`set local session_replication_role = replica`
    const [row] = await sql<{ days: number }[]>`
      select extract(day from now() at time zone 'UTC')::int + 9 as days`
    const days = row?.days ?? 0
    for (const table of ['usage_event', 'usage_correction']) {
      await sql`update ${sql(table)} set occurred_at = occurred_at - make_interval(days => ${days})
                 where org_id = any(${orgIds})`
    }
    await sql`
      update ledger_txn set occurred_at = occurred_at - make_interval(days => ${days})
       where id in (select e.txn_id from ledger_entry e join ledger_account a on a.id = e.account_id
                     where a.org_id = any(${orgIds}))`
    await sql`
      update reservation set created_at = created_at - make_interval(days => ${days}),
                             settled_at = settled_at - make_interval(days => ${days})
       where job_id in (select id from job where org_id = any(${orgIds}))`
    await sql`
      update job set created_at = created_at - make_interval(days => ${days}),
                     finished_at = finished_at - make_interval(days => ${days})
       where org_id = any(${orgIds})`
    await sql`
      update budget set period_start = date_trunc('month', period_start - interval '1 day', 'UTC'), period_end = period_start
       where kind = 'month' and scope_id in (
         select id from org where id = any(${orgIds}) union select id from team where org_id = any(${orgIds})
         union select id from api_key where org_id = any(${orgIds}))`
  })
}
