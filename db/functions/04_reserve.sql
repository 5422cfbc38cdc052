-- Accepting a job: one call, all or nothing.

-- Revokes a key of an org for good. A reservation of this key that is under way holds the key's balance row, so
-- this waits for it; whoever takes that row later sees the key revoked.
CREATE OR REPLACE FUNCTION revoke_key(p_org text, p_key text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  PERFORM 1 FROM budget b JOIN api_key k ON k.id = b.scope_id
   WHERE b.scope = 'key' AND b.scope_id = p_key AND b.kind = 'balance' AND k.org_id = p_org
     FOR NO KEY UPDATE OF b;
  UPDATE api_key SET revoked_at = coalesce(revoked_at, now()) WHERE id = p_key AND org_id = p_org;
  RETURN FOUND;
END $$;

-- Those of these keys that may start jobs: each with its team and org as `who`, the org's settlement mode, and whether
-- the org is frozen (disputed payment, unpaid invoice) and so starts nothing.
CREATE OR REPLACE FUNCTION active_keys(p_keys text[]) RETURNS TABLE (who text, mode text, is_frozen boolean)
LANGUAGE sql STABLE AS $$
  SELECT k.id || ' ' || k.team_id || ' ' || k.org_id, o.settlement_mode, o.frozen_at IS NOT NULL
    FROM api_key k JOIN org o ON o.id = k.org_id
   WHERE k.id = ANY (p_keys) AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())
$$;

-- What an earlier call has made: this very call, whose answer was lost on its way (the job has its id), or one
-- under the same idempotency key. The lost one is answered as it would have been. Null when there is neither.
CREATE OR REPLACE FUNCTION earlier_job(p_id text, p_key text, p_idempotency text, p_hash text) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
DECLARE
  v_job record;
BEGIN
  -- By the id alone: with the key as a condition too, an index of all the key's jobs looks as good to the planner.
  SELECT id, key_id, request_hash, state INTO v_job FROM job WHERE id = p_id;
  IF v_job.key_id IS DISTINCT FROM p_key THEN
    IF p_idempotency IS NULL THEN RETURN NULL; END IF;
    SELECT id, key_id, request_hash, state INTO v_job FROM job
     WHERE key_id = p_key AND idempotency_key = p_idempotency;
    IF NOT FOUND THEN RETURN NULL; END IF;
  END IF;
  IF v_job.request_hash <> p_hash THEN
    RETURN jsonb_build_object('ok', false, 'reason', 'idempotency_mismatch', 'job_id', v_job.id);
  END IF;
  RETURN jsonb_build_object('ok', true, 'replayed', v_job.id <> p_id, 'job_id', v_job.id, 'state', v_job.state,
    'outbox_id', (SELECT o.id::text FROM outbox o WHERE v_job.id = p_id AND o.dedupe_key = p_id || ':0'
                     AND o.topic = 'job.dispatch' AND o.done_at IS NULL));
END $$;

-- What can be said of calls before any budget is looked at: what an earlier call has made (where `p_ids` is given), that
-- the key may not start jobs. Null where neither is so. `modes`, `frozen`: of each call's org.
DROP FUNCTION IF EXISTS look_at_calls(jsonb[], text[], text[], text[]);
CREATE OR REPLACE FUNCTION look_at_calls(
  p_jobs jsonb[], p_ids text[], p_keys text[], p_orders text[], OUT results jsonb[], OUT modes text[], OUT frozen boolean[]
) LANGUAGE plpgsql AS $$
DECLARE
  v_known boolean := false;
  v_who text[];
  v_mode text[];
  v_frozen boolean[];
  v_at int;
BEGIN
  IF p_ids IS NOT NULL THEN v_known := EXISTS (SELECT 1 FROM job WHERE id = ANY (p_ids)); END IF;
  IF p_ids IS NOT NULL AND p_orders IS NOT NULL AND NOT v_known THEN
    v_known := EXISTS (SELECT 1 FROM job WHERE key_id = ANY (p_keys) AND idempotency_key = ANY (p_orders));
  END IF;
  SELECT array_agg(who), array_agg(mode), array_agg(is_frozen) INTO v_who, v_mode, v_frozen FROM active_keys(p_keys);
  FOR n IN 1..cardinality(p_jobs) LOOP
    results[n] := NULL;
    modes[n] := NULL;
    IF v_known THEN
      results[n] := earlier_job(p_ids[n], p_keys[n], p_jobs[n]->>'idempotency_key', p_jobs[n]->>'request_hash');
      CONTINUE WHEN results[n] IS NOT NULL;
    END IF;
    v_at := array_position(v_who, p_keys[n] || ' ' || (p_jobs[n]->>'team_id') || ' ' || (p_jobs[n]->>'org_id'));
    IF v_at IS NULL THEN
      results[n] := '{"ok": false, "reason": "key_inactive"}';
    ELSE
      modes[n] := v_mode[v_at];
      frozen[n] := v_frozen[v_at];
    END IF;
  END LOOP;
END $$;

-- Why a reservation of this amount would be refused now by a limit or a freeze; null when neither speaks against it. A
-- look without locks that holds nothing.
CREATE OR REPLACE FUNCTION foresee_refusal(p_key text, p_team text, p_org text, p_amount bigint) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  v_rows budget[];
  v_months int[];
  v_days int[];
  v_refusal jsonb;
  k int;
BEGIN
  SELECT budgets, months, days INTO v_rows, v_months, v_days
    FROM read_levels(ARRAY['key', 'team', 'org'], ARRAY[p_key, p_team, p_org], false);
  FOR l IN 1..3 LOOP
    FOREACH k IN ARRAY ARRAY[l, v_months[l], v_days[l]] LOOP
      CONTINUE WHEN k IS NULL;
      v_refusal := budget_refusal(v_rows[k], p_amount);
      IF v_refusal IS NOT NULL THEN RETURN v_refusal; END IF;
    END LOOP;
  END LOOP;
  IF EXISTS (SELECT 1 FROM org WHERE id = p_org AND frozen_at IS NOT NULL) THEN
    RETURN '{"ok": false, "reason": "org_frozen"}';
  END IF;
  RETURN NULL;
END $$;

-- Ids of a level's day and month under way with what they limit; null where a row has to be made first, or has no room.
CREATE OR REPLACE FUNCTION period_rows(b budget, p_amount bigint) RETURNS text[] LANGUAGE plpgsql STABLE AS $$
DECLARE
  v_ids text[] := '{}';
  v_row budget;
BEGIN
  IF b.month_limit_micros IS NOT NULL THEN
    v_row := period_row(b, 'month');
    IF v_row.id IS NULL OR budget_refusal(v_row, p_amount) IS NOT NULL THEN RETURN NULL; END IF;
    v_ids := v_ids || v_row.id;
  END IF;
  IF b.day_limit_micros IS NOT NULL THEN
    v_row := period_row(b, 'day');
    IF v_row.id IS NULL OR budget_refusal(v_row, p_amount) IS NOT NULL THEN RETURN NULL; END IF;
    v_ids := v_ids || v_row.id;
  END IF;
  RETURN v_ids;
END $$;

-- A single call that fits, the short way: a look without locks, then the locks and the same look again, which decides.
-- Null, and nothing written, where anything speaks against it or a row of a day or month has to be made first: then
-- `reserve_batch` decides, and says why. Statements that take one row by its
-- key are cheap; one that joins or aggregates the same rows costs several times as much.
CREATE OR REPLACE FUNCTION reserve_one(c jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  j constant jsonb := c->'job';
  v_id constant text := j->>'id';
  v_key constant text := j->>'key_id';
  v_team constant text := j->>'team_id';
  v_org constant text := j->>'org_id';
  v_order constant text := j->>'idempotency_key';
  v_amount constant bigint := (c->>'unit_micros')::bigint * (j->>'n')::int;
  v_mode text;
  v_budgets text[];
  k budget;
  t budget;
  o budget;
  b budget;
BEGIN
  FOR v_round IN 1..2 LOOP
    IF v_round = 1 THEN
      SELECT * INTO k FROM budget WHERE scope = 'key' AND scope_id = v_key AND kind = 'balance' AND period_start = 'epoch';
      SELECT * INTO t FROM budget WHERE scope = 'team' AND scope_id = v_team AND kind = 'balance' AND period_start = 'epoch';
      SELECT * INTO o FROM budget WHERE scope = 'org' AND scope_id = v_org AND kind = 'balance' AND period_start = 'epoch';
    ELSE
      SELECT * INTO k FROM budget WHERE scope = 'key' AND scope_id = v_key AND kind = 'balance' AND period_start = 'epoch' FOR NO KEY UPDATE;
      SELECT * INTO t FROM budget WHERE scope = 'team' AND scope_id = v_team AND kind = 'balance' AND period_start = 'epoch' FOR NO KEY UPDATE;
      SELECT * INTO o FROM budget WHERE scope = 'org' AND scope_id = v_org AND kind = 'balance' AND period_start = 'epoch' FOR NO KEY UPDATE;
    END IF;
    IF k.id IS NULL OR t.id IS NULL OR o.id IS NULL OR budget_refusal(k, v_amount) IS NOT NULL
       OR budget_refusal(t, v_amount) IS NOT NULL OR budget_refusal(o, v_amount) IS NOT NULL THEN RETURN NULL; END IF;
    SELECT mode INTO v_mode FROM active_keys(ARRAY[v_key]) WHERE who = v_key || ' ' || v_team || ' ' || v_org AND NOT is_frozen;
    IF NOT FOUND THEN RETURN NULL; END IF;
    PERFORM 1 FROM job WHERE id = v_id;
    IF FOUND THEN RETURN NULL; END IF;
    IF v_order IS NOT NULL THEN
      PERFORM 1 FROM job WHERE key_id = v_key AND idempotency_key = v_order;
      IF FOUND THEN RETURN NULL; END IF;
    END IF;
    v_budgets := ARRAY[k.id, t.id, o.id];
    IF coalesce(k.month_limit_micros, k.day_limit_micros, t.month_limit_micros, t.day_limit_micros,
                o.month_limit_micros, o.day_limit_micros) IS NOT NULL THEN
      FOREACH b IN ARRAY ARRAY[k, t, o] LOOP v_budgets := v_budgets || coalesce(period_rows(b, v_amount), '{NULL}'); END LOOP;
      IF array_position(v_budgets, NULL) IS NOT NULL THEN RETURN NULL; END IF;
    END IF;
  END LOOP;
  IF insert_jobs(ARRAY[j]) = 0 THEN RETURN NULL; END IF;
  -- The caller is told of the level with the fewest free places, the first of equal ones.
  b := k;
  IF coalesce(t.max_inflight - t.inflight < coalesce(b.max_inflight - b.inflight, 2147483647), false) THEN b := t; END IF;
  IF coalesce(o.max_inflight - o.inflight < coalesce(b.max_inflight - b.inflight, 2147483647), false) THEN b := o; END IF;
  RETURN jsonb_build_object('ok', true, 'replayed', false, 'job_id', v_id, 'state', 'accepted',
    'inflight', CASE WHEN b.max_inflight IS NOT NULL THEN b.inflight + 1 END, 'max_inflight', b.max_inflight,
    'outbox_id', hold_one(c, v_mode, v_amount, v_budgets)::text);
END $$;

-- Accepts jobs: job, hold on every level, reservation, ledger hold and outbox row of each, or a refusal that leaves
-- nothing behind, one after the other as if each had been a call of its own; one round trip, one commit. Safe to
-- repeat under the same job ids: who lost the answer calls again and is told of the jobs that were made.
-- An error is a bug or a broken call; nothing of any call is written then.
CREATE OR REPLACE FUNCTION reserve_jobs(calls jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  v_result jsonb;
BEGIN
  IF jsonb_array_length(calls) = 1 THEN v_result := reserve_one(calls->0); END IF;
  RETURN CASE WHEN v_result IS NULL THEN reserve_batch(calls) ELSE jsonb_build_array(v_result) END;
END $$;

DROP FUNCTION IF EXISTS reserve_job(jsonb), insert_job(jsonb), active_key_mode(text, text, text);

-- Names are looked up in this schema alone, whatever the caller's session says.
ALTER FUNCTION reserve_jobs(jsonb) SET search_path = public, pg_temp;

ALTER FUNCTION earlier_job(text, text, text, text) SET search_path = public, pg_temp;

ALTER FUNCTION revoke_key(text, text) SET search_path = public, pg_temp;

-- Every statement finds its rows by key. A plan made while a table was nearly empty would read the whole of it
-- for every job, until the next ANALYZE.
ALTER FUNCTION reserve_jobs(jsonb) SET enable_seqscan = off;

ALTER FUNCTION reserve_jobs(jsonb) SET enable_hashjoin = off;

ALTER FUNCTION reserve_jobs(jsonb) SET enable_mergejoin = off;

-- And one plan is as good as another, so none is made for the values of each call.
ALTER FUNCTION reserve_jobs(jsonb) SET plan_cache_mode = force_generic_plan;

ALTER FUNCTION earlier_job(text, text, text, text) SET enable_seqscan = off;
