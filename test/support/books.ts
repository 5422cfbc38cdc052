import type { Db } from '../../db/client.ts'

/**
 * Checks the books of the whole database and returns one sentence per broken invariant; empty = they balance.
 *
 * Every rule is written from the rows alone and shares no code with what wrote them.
 */
export async function checkBooks(db: Db): Promise<string[]> {
  const broken: string[] = []
  for (const [rule, query] of Object.entries(RULES)) {
    const rows = await db.sql.unsafe(query)
    if (rows.length > 0) broken.push(`${rule}: ${JSON.stringify(rows.slice(0, 3), bigintText)}`)
  }
  return broken
}

const RULES: Record<string, string> = {
  'held on a budget row = sum of the open reservations that lie on it': `
    select b.id, b.scope, b.held_micros, coalesce(sum(r.amount_micros), 0) as open
      from budget b
      left join reservation_leg l on l.budget_id = b.id
      left join reservation r on r.id = l.reservation_id and r.state = 'held'
     group by b.id having b.held_micros <> coalesce(sum(r.amount_micros), 0)`,
  'spent on a budget row = sum of what was captured on it and not refunded': `
    select b.id, b.scope, b.spent_micros from budget b
      left join reservation_leg l on l.budget_id = b.id
      left join reservation r on r.id = l.reservation_id
      left join lateral (
        select sum(c.net_micros) as micros from usage_event u join usage_correction c on c.usage_event_id = u.id
         where u.job_id = r.job_id and c.reason = 'refund') refund on true
     group by b.id having b.spent_micros <> coalesce(sum(r.captured_micros + coalesce(refund.micros, 0)), 0)`,
  'jobs in flight on a balance row = open reservations': `
    select b.id, b.scope, b.inflight from budget b
      left join reservation_leg l on l.budget_id = b.id
      left join reservation r on r.id = l.reservation_id and r.state = 'held'
     where b.kind = 'balance'
     group by b.id having b.inflight <> count(r.id)`,
  'no budget is passed': `
    select id from budget where held_micros + spent_micros > limit_micros or inflight > max_inflight`,
  'every job has one reservation with a leg on key, team and org': `
    select j.id from job j left join reservation r on r.job_id = j.id
      left join reservation_leg l on l.reservation_id = r.id
      left join budget b on b.id = l.budget_id and b.kind = 'balance'
     group by j.id having count(distinct r.id) <> 1 or count(distinct b.scope) <> 3`,
  'a hold is open exactly while its job is unfinished': `
    select j.id, j.state, r.state from job j join reservation r on r.job_id = j.id
     where (r.state = 'held') <> (j.state in ('accepted', 'queued', 'running'))`,
  'a job has an end exactly when it is finished': `
    select id, state from job
     where (finished_at is null) <> (state in ('accepted', 'queued', 'running'))`,
  'captured = what the stored images of a finished job cost, each at most the unit price': `
    select j.id from job j join reservation r on r.job_id = j.id
      left join usage_event u on u.job_id = j.id
     group by j.id, r.id having (r.state <> 'held') and r.captured_micros <> coalesce(sum(u.net_micros), 0)
         or max(u.net_micros) > r.unit_micros`,
  'without tiers an image costs the unit price': `
    select u.id from usage_event u join reservation r on r.job_id = u.job_id
      join price_version p on p.id = u.price_version_id
     where p.tiers is null and u.net_micros <> r.unit_micros`,
  'one usage line per stored image of a finished job that is charged, none else': `
    select coalesce(u.job_id, o.job_id) from usage_event u
      full join (select o.* from job_output o join job j on j.id = o.job_id and j.finished_at is not null
                        where o.unbilled_reason is null) o
        on o.job_id = u.job_id and o.idx = u.idx
     where u.job_id is null or o.job_id is null`,
  'only a job that was promised a refund has pictures that are not charged, and those failed their check': `
    select o.job_id from job_output o join job j on j.id = o.job_id
     where (o.unbilled_reason is not null) <> coalesce(
       j.text_terms->>'guarantee' = 'refund' and (o.text_check->>'passed')::boolean is not true, false)`,
  'usage lines add up to the captures': `
    select 1 where (select coalesce(sum(net_micros), 0) from usage_event)
                <> (select coalesce(sum(captured_micros), 0) from reservation)`,
  'every ledger transaction sums to zero in each phase': `
    select txn_id from ledger_entry group by txn_id, phase having sum(amount_micros) <> 0`,
  // What foreign keys would say of the tables that grow with every job.
  'a job belongs to an org, a team and a key of that org': `
    select j.id from job j left join org o on o.id = j.org_id
      left join team t on t.id = j.team_id and t.org_id = o.id
      left join api_key k on k.id = j.key_id and k.org_id = o.id
     where t.id is null or k.id is null`,
  'a hold belongs to a job, lies on budget rows of its org and has prices that are there': `
    select r.id from reservation r left join job j on j.id = r.job_id
      left join price_version p on p.id = r.price_version_id
      left join price_version v on v.id = r.list_version_id
      left join org_price c on c.id = r.org_price_id
     where j.id is null or p.id is null or v.id is null or (r.org_price_id is not null and c.org_id is distinct from j.org_id)
    union all
    select l.reservation_id from reservation_leg l left join reservation r on r.id = l.reservation_id
      left join job j on j.id = r.job_id
      left join budget b on b.id = l.budget_id and b.scope_id in (j.key_id, j.team_id, j.org_id)
     where b.id is null`,
  'a ledger entry lies in a transaction and on an account': `
    select e.id::text from ledger_entry e left join ledger_txn t on t.id = e.txn_id
      left join ledger_account a on a.id = e.account_id where t.id is null or a.id is null`,
  'usage, outputs, burned credit and events of jobs name rows that are there': `
    select u.id from usage_event u left join job j on j.id = u.job_id and j.org_id = u.org_id
      left join price_version p on p.id = u.price_version_id and p.sku_id = u.sku_id
      left join price_version v on v.id = u.list_version_id
      left join org_price c on c.id = u.org_price_id
     where j.id is null or p.id is null or v.id is null or (u.org_price_id is not null and c.id is null)
    union all
    select o.job_id from job_output o left join job j on j.id = o.job_id where j.id is null
    union all
    select b.job_id from credit_burn b left join job j on j.id = b.job_id
      left join credit_grant g on g.id = b.grant_id and g.org_id = j.org_id where g.id is null
    union all
    select e.id from webhook_event e left join org o on o.id = e.org_id where o.id is null`,
  'no ledger transaction is empty': `
    select t.id from ledger_txn t where not exists (select 1 from ledger_entry e where e.txn_id = t.id)`,
  'pending entries = open reservations': `
    select 1 where (select coalesce(sum(amount_micros), 0) from ledger_entry
                     where phase = 'pending' and amount_micros > 0)
                 - (select coalesce(sum(r.amount_micros), 0) from reservation r where r.state <> 'held') * 2
                <> (select coalesce(sum(r.amount_micros), 0) from reservation r where r.state = 'held')`,
  'posted income = captures': `
    select 1 where (select coalesce(-sum(amount_micros), 0) from ledger_entry
                     where phase = 'posted' and account_id in ('revenue', 'recovery'))
                <> (select coalesce(sum(captured_micros), 0) from reservation)`,
  'a prepaid org is owed what it was granted less what it spent: by its accounts, by its grants': `
    select o.id from org o join budget b on b.scope = 'org' and b.scope_id = o.id and b.kind = 'balance'
     where o.settlement_mode = 'prepaid' and (b.limit_micros - b.spent_micros <>
       (select coalesce(-sum(e.amount_micros), 0) from ledger_entry e
         where e.account_id in ('prepaid:' || o.id, 'promo:' || o.id) and e.phase = 'posted')
       or b.limit_micros - b.spent_micros <>
          (select coalesce(sum(g.remaining_micros), 0) from credit_grant g where g.org_id = o.id))`,
  'what is left of credit of a kind = its account': `
    select o.id, x.kind from org o cross join unnest(array['paid', 'promo']) as x(kind)
     where (select coalesce(sum(remaining_micros), 0) from credit_grant g where g.org_id = o.id and g.kind = x.kind)
        <> (select coalesce(-sum(e.amount_micros), 0) from ledger_entry e where e.phase = 'posted'
             and e.account_id = case x.kind when 'paid' then 'prepaid:' else 'promo:' end || o.id)`,
  'of a grant is left what was not burned, or came back, or expired, or was withdrawn': `
    select g.id from credit_grant g left join credit_burn u on u.grant_id = g.id
     group by g.id having g.remaining_micros <> g.amount_micros - g.withdrawn_micros - coalesce(sum(u.amount_micros - u.returned_micros), 0)
       - (select coalesce(sum(e.amount_micros), 0) from ledger_txn t join ledger_entry e on e.txn_id = t.id
           where t.kind = 'expire' and t.source_id like g.id || ':%' and e.amount_micros > 0)`,
  'what was withdrawn from grants of an org = its withdrawals': `
    select o.id from org o where
      (select coalesce(sum(g.withdrawn_micros), 0) from credit_grant g where g.org_id = o.id) <>
      (select coalesce(sum(e.amount_micros), 0) from ledger_txn t join ledger_entry e on e.txn_id = t.id
        where t.kind in ('withdrawal', 'debt_paid') and e.account_id = 'prepaid:' || o.id)`,
  'promotional credit in the usage lines of a job = what the job burned of it': `
    select r.job_id from reservation r where
      (select coalesce(sum(u.credit_micros), 0) from usage_event u where u.job_id = r.job_id) <>
      (select coalesce(sum(c.amount_micros), 0) from credit_burn c join credit_grant g on g.id = c.grant_id
        where c.job_id = r.job_id and g.kind = 'promo')`,
  'refunds in the ledger = corrections': `
    select 1 where (select coalesce(sum(e.amount_micros), 0) from ledger_entry e where e.account_id = 'refunds')
                <> (select coalesce(-sum(net_micros), 0) from usage_correction where reason = 'refund')`,
  'the newest day and month of a level count every job accepted in them, and state the limit and thresholds set': `
    select b.id, m.kind from budget b cross join unnest(array['day', 'month']) as x(kind)
      join lateral (select m.*, case x.kind when 'day' then b.day_limit_micros else b.month_limit_micros end as wanted
                      from budget m
                     where m.scope = b.scope and m.scope_id = b.scope_id and m.kind = x.kind
                     order by m.period_start desc limit 1) m on true
      left join job j on case b.scope when 'key' then j.key_id when 'team' then j.team_id else j.org_id end = b.scope_id
      left join reservation r on r.job_id = j.id and r.created_at >= m.period_start and r.created_at < m.period_end
     where b.kind = 'balance' and m.wanted is not null
       and (coalesce(m.limit_next_micros, m.limit_micros) is distinct from m.wanted or m.soft_bp <> b.soft_bp
         or (r.id is not null and not exists (
           select 1 from reservation_leg l where l.reservation_id = r.id and l.budget_id = m.id)))`,
  'a limit that is lower than what is committed stands at just that, and lets nothing in': `
    select id from budget where limit_next_micros is not null
       and (limit_micros is null or limit_micros <> held_micros + spent_micros or limit_next_micros >= limit_micros)`,
  'every threshold that was passed has one event, and no event is without one': `
    select a.budget_id, a.bp, e.id from budget_alert a full join (
      select * from webhook_event where type = 'budget.threshold_reached') e on e.subject_id = a.budget_id || ':' || a.bp
     where a.budget_id is null or (e.id is null and a.fired_at > now() - interval '30 days')`,
  'an event of a threshold goes to the org whose budget it is': `
    select a.budget_id from budget_alert a join budget b on b.id = a.budget_id
      join webhook_event e on e.subject_id = a.budget_id || ':' || a.bp and e.type = 'budget.threshold_reached'
     where e.org_id is distinct from case b.scope when 'org' then b.scope_id
       when 'team' then (select org_id from team where id = b.scope_id) else (select org_id from api_key where id = b.scope_id) end`,
  'a day or month holds only what was accepted in it': `
    select r.id from reservation r join reservation_leg l on l.reservation_id = r.id
      join budget m on m.id = l.budget_id and m.kind in ('day', 'month')
     where r.created_at < m.period_start or r.created_at >= m.period_end`,
  'no limit is negative': `
    select id from budget where limit_micros < 0 or limit_next_micros < 0 or day_limit_micros < 0
        or month_limit_micros < 0 or max_inflight < 0`,
  'what is charged and granted to an org lies on the account of its settlement mode': `
    select e.id from ledger_entry e join ledger_account a on a.id = e.account_id join org o on o.id = a.org_id
      join ledger_txn t on t.id = e.txn_id
     where t.kind not in ('withdrawal_owed', 'payment_returned', 'debt_paid', 'write_off') and a.type <> all (case o.settlement_mode when 'prepaid' then array['prepaid', 'promo']
                     when 'postpaid' then array['receivable', 'promo'] else array['team_cost'] end)`,
  'the unit price is that of the price version': `
    select r.id from reservation r join price_version p on p.id = r.price_version_id
      left join org_price c on c.id = r.org_price_id
     where r.unit_micros <> round(p.price_micros * (10000 - coalesce(c.discount_bp, 0)) / 10000.0 / p.per_units)`,
  'charges and releases belong to settled reservations, one each': `
    select r.id, r.state from reservation r
      left join ledger_txn released on released.kind = 'release' and released.source_id = substr(r.job_id, 5)
      left join ledger_txn charged on charged.kind = 'charge' and charged.source_id = substr(r.job_id, 5)
     where r.amount_micros > 0 and ((released.id is not null) <> (r.state <> 'held')
        or (charged.id is not null) <> (r.captured_micros > 0))`,
  // Sent messages are kept for a week, events for a month.
  'every job of the last seven days was staged for the queue': `
    select j.id from job j where j.created_at > now() - interval '7 days' and not exists (
      select 1 from outbox o where o.topic = 'job.dispatch' and o.payload->>'job_id' = j.id)`,
  'every job that finished in the last thirty days has one event': `
    select j.id from job j where j.finished_at > now() - interval '30 days' and not exists (
      select 1 from webhook_event e where e.subject_id = j.id and e.type = 'job.' || j.state)`,
}

function bigintText(_key: string, value: unknown): unknown {
  return typeof value === 'bigint' ? value.toString() : value
}
