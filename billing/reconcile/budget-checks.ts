import type { Check } from './difference.ts'

export const BUDGET_CHECKS: readonly Check[] = [
  {
    name: 'budget',
    query: `
      with refunds as (
        select u.job_id, sum(c.net_micros) as micros
          from usage_correction c join usage_event u on u.id = c.usage_event_id
         where c.reason = 'refund' group by u.job_id
      ), sums as (
        select l.budget_id, coalesce(sum(r.amount_micros) filter (where r.state = 'held'), 0) as held,
               sum(r.captured_micros) + coalesce(sum(f.micros), 0) as spent,
               count(*) filter (where r.state = 'held') as open
          from reservation_leg l join reservation r on r.id = l.reservation_id
          left join refunds f on f.job_id = r.job_id
         group by l.budget_id)
      select json_build_object('budget', b.id, b.scope, b.scope_id, 'kind', b.kind, 'field', x.field) as ids,
             x.expected::text as expected, x.found::text as found
        from budget b left join sums s on s.budget_id = b.id
        cross join lateral (values
          ('held', coalesce(s.held, 0), b.held_micros),
          ('spent', coalesce(s.spent, 0), b.spent_micros),
          ('inflight', case b.kind when 'balance' then coalesce(s.open, 0) else 0 end, b.inflight)
        ) x(field, expected, found)
       where x.expected <> x.found`,
  },
  {
    name: 'capture',
    query: `
      with used as (select job_id, sum(net_micros) as micros from usage_event group by job_id)
      select json_build_object('job', r.job_id, 'reservation', r.id) as ids,
             coalesce(u.micros, 0)::text as expected, r.captured_micros::text as found
        from reservation r left join used u on u.job_id = r.job_id
       where coalesce(u.micros, 0) <> r.captured_micros`,
  },
  {
    name: 'hold_of_job',
    query: `
      select json_build_object('job', j.id, 'state', j.state) as ids,
             case when j.finished_at is null then 'held' else 'settled' end as expected,
             coalesce(r.state, 'none') as found
        from job j left join reservation r on r.job_id = j.id
       where (r.state = 'held') is distinct from (j.finished_at is null)`,
  },
  {
    name: 'credit_account',
    query: `
      with accounts as (
        select a.org_id, case a.type when 'prepaid' then 'paid' else 'promo' end as kind,
               -sum(e.amount_micros) as micros
          from ledger_account a join ledger_entry e on e.account_id = a.id and e.phase = 'posted'
         where a.type in ('prepaid', 'promo') group by 1, 2
      ), grants as (
        select org_id, kind, sum(remaining_micros) as micros from credit_grant group by 1, 2)
      select json_build_object('org', coalesce(g.org_id, a.org_id), 'credit', coalesce(g.kind, a.kind)) as ids,
             coalesce(a.micros, 0)::text as expected, coalesce(g.micros, 0)::text as found
        from grants g full join accounts a on a.org_id = g.org_id and a.kind = g.kind
       where coalesce(g.micros, 0) <> coalesce(a.micros, 0)`,
  },
  {
    name: 'credit_limit',
    query: `
      select json_build_object('org', o.id, 'budget', b.id) as ids, coalesce(g.micros, 0)::text as expected,
             (b.limit_micros - b.spent_micros)::text as found
        from org o join budget b on b.scope = 'org' and b.scope_id = o.id and b.kind = 'balance'
        left join (select org_id, sum(remaining_micros) as micros from credit_grant group by org_id) g on g.org_id = o.id
       where o.settlement_mode = 'prepaid' and coalesce(g.micros, 0) is distinct from b.limit_micros - b.spent_micros`,
  },
  {
    name: 'credit_of_topup',
    query: `
      select json_build_object('topup', p.id, 'org', p.org_id) as ids,
             (case p.state when 'paid' then p.amount_micros else 0 end)::text as expected,
             coalesce(g.amount_micros, 0)::text as found
        from topup p left join credit_grant g on g.source_id = p.payment_intent
       where case p.state when 'paid' then p.amount_micros else 0 end <> coalesce(g.amount_micros, 0)`,
  },
  {
    name: 'statement_sha256',
    query: `
      select json_build_object('statement', id, 'org', org_id) as ids, sha256 as expected,
             encode(sha256(convert_to(document, 'UTF8')), 'hex') as found
        from statement where encode(sha256(convert_to(document, 'UTF8')), 'hex') <> sha256`,
  },
  {
    // Only what has its hash is surely a document of ours.
    name: 'statement_lines',
    query: `
      with closed as materialized (
        select id, org_id, team_id, period_start, period_end, document::jsonb as document from statement
         where encode(sha256(convert_to(document, 'UTF8')), 'hex') = sha256)
      select json_build_object('statement', s.id, 'org', s.org_id, 'part', x.part) as ids, x.expected::text as expected,
             x.found::text as found
        from closed s
        cross join lateral (
          select coalesce(sum(net_micros), 0) as net from usage_event u
           where u.org_id = s.org_id and (s.team_id is null or u.team_id = s.team_id)
             and u.occurred_at >= s.period_start and u.occurred_at < s.period_end) used
        cross join lateral (
          select coalesce(sum(net_micros), 0) as net from usage_correction c
           where c.org_id = s.org_id and (s.team_id is null or c.team_id = s.team_id)
             and c.occurred_at >= s.period_start and c.occurred_at < s.period_end) corrected
        cross join lateral (values
          ('usage', used.net, ((s.document->'usage'->>'net')::numeric * 1000000)::bigint),
          ('corrections', corrected.net, ((s.document->'corrections'->>'net')::numeric * 1000000)::bigint)
        ) x(part, expected, found)
       where x.expected is distinct from x.found`,
  },
]
