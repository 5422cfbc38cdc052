import type { Check } from './difference.ts'

/** What should have moved on by now. */
export const WORK_CHECKS: readonly Check[] = [
  {
    name: 'message_unsent',
    isTimed: true,
    query: `
      select json_build_object('message', id::text, 'topic', topic, 'about', dedupe_key) as ids,
             'sent after ' || available_at as expected, 'unsent' as found
        from outbox where done_at is null and available_at < now() - make_interval(secs => $grace)`,
  },
  {
    // A worker that is alive may end its job after the deadline.
    name: 'hold_overdue',
    isTimed: true,
    query: `
      select json_build_object('job', j.id, 'reservation', r.id, 'micros', r.amount_micros::text) as ids,
             'settled after ' || r.expires_at as expected, 'held' as found
        from reservation r join job j on j.id = r.job_id
       where r.state = 'held' and r.expires_at < now() - make_interval(secs => $grace)
         and not (j.state = 'running' and j.lease_until > now() - make_interval(secs => $grace))`,
  },
  {
    name: 'webhook_stuck',
    isTimed: true,
    query: `
      select json_build_object('delivery', d.id, 'event', d.event_id, 'org', d.org_id) as ids,
             'attempted after ' || d.next_attempt_at as expected, 'pending' as found
        from webhook_delivery d left join webhook_endpoint e on e.id = d.endpoint_id
       where d.state = 'pending' and d.next_attempt_at < now() - make_interval(secs => $grace)
         and (e.deferred_until is null or e.deferred_until < now() - make_interval(secs => $grace))`,
  },
  {
    name: 'stripe_event_stuck',
    isTimed: true,
    query: `
      select json_build_object('event', id, 'type', type, 'attempts', attempts::text) as ids,
             'applied after ' || received_at as expected, coalesce('failed: ' || error, 'waiting') as found
        from stripe_event where applied_at is null and received_at < now() - make_interval(secs => $grace)`,
  },
  {
    name: 'stripe_report_stuck',
    isTimed: true,
    query: `
      select json_build_object('report', r.id, 'org', r.org_id, 'identifier', r.identifier) as ids,
             'told after ' || r.sealed_at as expected, r.state || coalesce(': ' || r.error, '') as found
        from meter_report r
       where (r.state in ('sealed', 'sending', 'unknown')
              and r.next_attempt_at < now() - make_interval(secs => $grace))
          or (r.state = 'failed' and r.sealed_at < now() - make_interval(secs => $grace) and not exists (
               select 1 from meter_report l where l.org_id = r.org_id and l.meter = r.meter and l.hour = r.hour
                  and l.revision > r.revision))`,
  },
  {
    name: 'invoice_payment',
    query: `
      with paid as (
        select t.source_id, sum(e.amount_micros) as micros
          from ledger_txn t join ledger_entry e on e.txn_id = t.id and e.account_id = 'clearing'
         where t.kind = 'invoice_payment' group by t.source_id)
      select json_build_object('invoice', coalesce(i.id, p.source_id)) as ids,
             (case i.state when 'paid' then coalesce(i.lines_micros, 0) else 0 end)::text as expected,
             coalesce(p.micros, 0)::text as found
        from invoice i full join paid p on p.source_id = i.id
       where case i.state when 'paid' then coalesce(i.lines_micros, 0) else 0 end <> coalesce(p.micros, 0)`,
  },
]
