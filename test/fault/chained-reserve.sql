-- A seeded bug, never part of the product: holds taken by chained CTEs that a later refusal does not undo.
create or replace function reserve_jobs(calls jsonb) returns jsonb language plpgsql as $$
declare
  input constant jsonb := calls->0;
  j constant jsonb := input->'job';
  v_suffix constant text := substr(j->>'id', 5);
  v_amount constant bigint := (input->>'unit_micros')::bigint * (j->>'n')::int;
  v_org text;
begin
  with k as (
    update budget set held_micros = held_micros + v_amount, inflight = inflight + 1
     where scope = 'key' and scope_id = j->>'key_id'
       and (limit_micros is null or held_micros + spent_micros + v_amount <= limit_micros) returning id
  ), t as (
    update budget set held_micros = held_micros + v_amount, inflight = inflight + 1
     where scope = 'team' and scope_id = j->>'team_id' and exists (select 1 from k)
       and (limit_micros is null or held_micros + spent_micros + v_amount <= limit_micros) returning id
  ), o as (
    update budget set held_micros = held_micros + v_amount, inflight = inflight + 1
     where scope = 'org' and scope_id = j->>'org_id' and exists (select 1 from t)
       and (limit_micros is null or held_micros + spent_micros + v_amount <= limit_micros) returning id
  )
  select id into v_org from o;
  if v_org is null then
    return jsonb_build_array(jsonb_build_object('ok', false, 'reason', 'too_many_inflight', 'scope', 'org', 'inflight', 0, 'max_inflight', 0));
  end if;
  insert into job (id, org_id, team_id, key_id, request_hash, dialect, model, prompt, width, height, n, seed, format,
                   state, deadline_at)
  values (j->>'id', j->>'org_id', j->>'team_id', j->>'key_id', j->>'request_hash', j->>'dialect', j->>'model', j->>'prompt',
          (j->>'width')::int, (j->>'height')::int, (j->>'n')::int, (j->>'seed')::bigint, j->>'format', 'accepted',
          now() + interval '15 minutes');
  insert into reservation (id, job_id, state, unit_micros, amount_micros, price_version_id, list_version_id, expires_at)
  values ('res_' || v_suffix, j->>'id', 'held', (input->>'unit_micros')::bigint, v_amount,
          input->>'price_version_id', input->>'price_version_id', now() + interval '15 minutes');
  perform post_transfer('hold', v_suffix, 'receivable:' || (j->>'org_id'), 'revenue', v_amount, 'pending');
  insert into outbox (topic, dedupe_key, payload)
  values ('job.dispatch', (j->>'id') || ':0', jsonb_build_object('job_id', j->>'id', 'org_id', j->>'org_id'));
  insert into reservation_leg (reservation_id, budget_id)
  select 'res_' || v_suffix, id from budget where kind = 'balance'
     and scope_id in (j->>'key_id', j->>'team_id', j->>'org_id');
  return jsonb_build_array(jsonb_build_object('ok', true, 'replayed', false, 'job_id', j->>'id', 'state', 'accepted', 'outbox_id', null));
end $$;
