import type { Check } from './difference.ts'

/** Folded balances beside a fold of all entries that they claim to hold. Also what a rebuild mends. */
export const BALANCE_CHECK: Check = {
  name: 'balance',
  query: `
    with facts as (
      select account_id, coalesce(sum(amount_micros) filter (where phase = 'pending'), 0) as pending,
             coalesce(sum(amount_micros) filter (where phase = 'posted'), 0) as posted
        from ledger_entry
       where id <= (select folded_to from ledger_watermark where projection = 'balances')
       group by account_id)
    select json_build_object('account', coalesce(f.account_id, b.account_id), 'phase', x.phase) as ids,
           x.expected::text as expected, x.found::text as found
      from facts f full join ledger_balance b on b.account_id = f.account_id
      cross join lateral (values ('pending', coalesce(f.pending, 0), coalesce(b.pending_micros, 0)),
                                 ('posted', coalesce(f.posted, 0), coalesce(b.posted_micros, 0))) x(phase, expected, found)
     where x.expected <> x.found`,
}

export const LEDGER_CHECKS: readonly Check[] = [
  {
    name: 'transaction_sum',
    query: `
      select json_build_object('transaction', txn_id, 'phase', phase) as ids, '0' as expected,
             sum(amount_micros)::text as found
        from ledger_entry group by txn_id, phase having sum(amount_micros) <> 0`,
  },
  {
    name: 'transaction_empty',
    query: `
      select json_build_object('transaction', t.id) as ids, 'entries' as expected, 'none' as found
        from ledger_txn t left join ledger_entry e on e.txn_id = t.id where e.id is null`,
  },
  BALANCE_CHECK,
  {
    name: 'hold',
    query: `
      with pending as (
        select t.source_id, sum(e.amount_micros * case t.kind when 'hold' then 1 else -1 end) as micros
          from ledger_txn t join ledger_entry e on e.txn_id = t.id and e.phase = 'pending' and e.amount_micros > 0
         where t.kind in ('hold', 'release') group by t.source_id)
      select json_build_object('job', coalesce(r.job_id, 'job_' || p.source_id)) as ids,
             (case r.state when 'held' then r.amount_micros else 0 end)::text as expected,
             coalesce(p.micros, 0)::text as found
        from reservation r full join pending p on p.source_id = substr(r.job_id, 5)
       where case r.state when 'held' then r.amount_micros else 0 end <> coalesce(p.micros, 0)`,
  },
  {
    name: 'charge',
    query: `
      with used as (
        select job_id, sum(net_micros) as micros from usage_event group by job_id
      ), charged as (
        select t.source_id, -sum(e.amount_micros) as micros
          from ledger_txn t join ledger_entry e on e.txn_id = t.id and e.account_id in ('revenue', 'recovery')
         where t.kind = 'charge' and e.phase = 'posted' group by t.source_id)
      select json_build_object('job', coalesce(u.job_id, 'job_' || c.source_id)) as ids,
             coalesce(u.micros, 0)::text as expected, coalesce(c.micros, 0)::text as found
        from used u full join charged c on c.source_id = substr(u.job_id, 5)
       where coalesce(u.micros, 0) <> coalesce(c.micros, 0)`,
  },
  {
    name: 'income_otherwise',
    query: `
      select json_build_object('transaction', t.id, 'account', e.account_id) as ids, '0' as expected,
             e.amount_micros::text as found
        from ledger_entry e join ledger_txn t on t.id = e.txn_id
       where e.account_id in ('revenue', 'recovery') and e.phase = 'posted' and t.kind <> 'charge'`,
  },
  {
    name: 'picture',
    query: `
      select json_build_object('job', coalesce(u.job_id, o.job_id), 'index', coalesce(u.idx, o.idx)) as ids,
             case when o.job_id is null then 'no picture' else coalesce(o.unbilled_reason, 'charged') end as expected,
             case when u.job_id is null then 'no usage line' else 'charged' end as found
        from usage_event u
        full join (select p.* from job_output p join job j on j.id = p.job_id and j.finished_at is not null) o
          on o.job_id = u.job_id and o.idx = u.idx
       where (u.job_id is null) <> (o.job_id is null or o.unbilled_reason is not null)`,
  },
  {
    name: 'refund',
    query: `
      with given as (
        select c.source_id || ':' || u.job_id as source, -sum(c.net_micros) as micros
          from usage_correction c join usage_event u on u.id = c.usage_event_id
         where c.reason = 'refund' group by 1
      ), posted as (
        -- Behind cause and job stand the images of this posting.
        select regexp_replace(t.source_id, ':[0-9]+(-[0-9]+)*$', '') as source, sum(e.amount_micros) as micros
          from ledger_txn t join ledger_entry e on e.txn_id = t.id and e.account_id = 'refunds'
         where e.phase = 'posted' group by 1)
      select json_build_object('refund', coalesce(g.source, p.source)) as ids,
             coalesce(g.micros, 0)::text as expected, coalesce(p.micros, 0)::text as found
        from given g full join posted p on p.source = g.source
       where coalesce(g.micros, 0) <> coalesce(p.micros, 0)`,
  },
  {
    // Each line against the hash that is stored before it: all of them together are the whole chain.
    name: 'chain_hash',
    query: `
      with lines as (
        select l.org_id, l.seq, l.hash, e.id as entry_id, encode(sha256(convert_to(concat_ws('|',
                 lag(l.hash, 1, repeat('0', 64)) over (partition by l.org_id order by l.seq), l.seq,
                 floor(extract(epoch from t.occurred_at) * 1000)::bigint, t.kind, t.source_id, a.type, e.phase,
                 e.amount_micros), 'UTF8')), 'hex') as made
          from ledger_line l
          join ledger_entry e on e.id = l.entry_id
          join ledger_txn t on t.id = e.txn_id
          join ledger_account a on a.id = e.account_id)
      select json_build_object('org', org_id, 'line', seq::text, 'entry', entry_id::text) as ids, made as expected,
             hash as found
        from lines where made <> hash`,
  },
  {
    name: 'chain_lines',
    query: `
      select json_build_object('org', org_id) as ids, max(seq)::text as expected, count(*)::text as found
        from ledger_line group by org_id having max(seq) <> count(*)`,
  },
  {
    name: 'chain_entry',
    query: `
      select json_build_object('org', a.org_id, 'entry', e.id::text) as ids, 'in the chain' as expected,
             'missing' as found
        from ledger_watermark w
        join ledger_account a on w.projection = 'chain:' || a.org_id
        join ledger_entry e on e.account_id = a.id and e.xid < w.xid
        left join ledger_line l on l.entry_id = e.id
       where l.entry_id is null`,
  },
]
