import type { World } from './world.ts'

/** What is still on its way, in words; empty at rest. */
export async function whatIsOpen(world: World): Promise<string[]> {
  const [row] = await world.direct.sql<Record<string, bigint>[]>`
    select (select count(*) from job where state in ('accepted', 'queued', 'running')) as "unfinished jobs",
           (select count(*) from reservation where state = 'held') as "open holds",
           (select count(*) from outbox where done_at is null and exists (
              select 1 from job j where j.id = payload->>'job_id' and j.state in ('accepted', 'queued', 'running')))
             as "unsent messages",
           (select count(*) from stripe_event where applied_at is null) as "unapplied webhooks",
           (select count(*) from topup where kind = 'auto' and state = 'pending') as "automatic top-ups",
           (select count(*) from meter_report where state in ('sealed', 'sending', 'unknown', 'accepted'))
             as "reports to Stripe",
           (select count(*) from webhook_delivery where state = 'pending') as "webhook deliveries"`
  const open = Object.entries(row ?? {}).flatMap(([what, count]) =>
    count > 0n ? [`${count} ${what}`] : [],
  )
  const unpaid = [...world.fake.state.invoices.values()].filter(({ status }) => status !== 'paid')
  if (unpaid.length > 0) open.push(`${unpaid.length} invoices`)
  const { events } = world.fake.state
  const [stored] = await world.direct.sql<{ count: bigint }[]>`
    select count(*) from stripe_event`
  const missing = BigInt(events.length) - (stored?.count ?? 0n)
  if (missing > 0n) open.push(`${missing} webhooks with Stripe`)
  return open
}

/** What may tell why it is open. */
export async function describeOpen(world: World): Promise<string[]> {
  const rows = await world.direct.sql<{ what: string }[]>`
    select 'webhook ' || type || ' after ' || attempts || ' attempts: ' || coalesce(error, '') as what
      from stripe_event where applied_at is null
    union all
    select 'report ' || identifier || ' is ' || state || ' after ' || attempts || ' attempts: ' || coalesce(error, '')
      from meter_report where state in ('sealed', 'sending', 'unknown', 'accepted')
    union all
    select 'job ' || id || ' is ' || state || ', attempt ' || attempt || ' of ' || coalesce(worker_id, 'nobody')
      from job where finished_at is null
    union all
    select 'invoice ' || id || ' is ' || state || ', looked at ' || updated_at || ': ' || coalesce(problem, 'its books agree')
      from invoice where state in ('draft', 'held')`
  const { state } = world.fake
  const drafts = [...state.invoices.values()].filter(({ status }) => status === 'draft')
  return [
    ...rows.map(({ what }) => what),
    ...drafts.map(
      ({ id, finalizesAtMs }) =>
        `at ${new Date(state.nowMs).toISOString()} Stripe finalises ${id} ${
          finalizesAtMs === null ? 'never' : `at ${new Date(finalizesAtMs).toISOString()}`
        }`,
    ),
  ]
}
