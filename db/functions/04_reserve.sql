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

-- Accepts jobs: job, hold on every level, reservation, ledger hold and outbox row of each, or a refusal that leaves
-- nothing behind, one after the other as if each had been a call of its own; one round trip, one commit. Safe to
-- repeat under the same job ids: who lost the answer calls again and is told of the jobs that were made.
--
-- Round 1 looks without locks, so that what is plainly over writes nothing. Round 2 decides: it holds the balance rows
-- of all calls, key -> team -> org, and with them their days and months and every other call of these keys.
-- An error is a bug or a broken call; nothing of any call is written then.
CREATE OR REPLACE FUNCTION reserve_jobs(calls jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  v_calls jsonb[];
  v_jobs jsonb[];
  v_ids text[];
  v_keys text[];
  v_orders text[];
  v_modes text[];
  v_frozen boolean[];
  v_results jsonb[];
  v_known jsonb[];     -- what could be said at the first look
  v_look record;
  v_read record;
  v_scopes text[];
  v_levels text[];
  v_rows budget[];
  v_months int[];
  v_days int[];
  v_held bigint[];     -- what these calls add to each row
  v_taken int[];
  v_accepted int[];    -- their numbers
  v_amounts bigint[];
  v_leg_calls text[];
  v_leg_rows int[];
  v_touched int[];
  v_outbox bigint[];
  v_repeats boolean := false;
  v_is_new boolean := true;
  v_amount bigint;
  v_free int;
  v_max int;
  v_at int;
  k int;
  b budget;
  j jsonb;
BEGIN
  FOR n IN 1..jsonb_array_length(calls) LOOP
    v_calls[n] := calls->(n - 1);
    v_jobs[n] := v_calls[n]->'job';
    v_ids[n] := v_jobs[n]->>'id';
    v_keys[n] := v_jobs[n]->>'key_id';
    IF v_jobs[n]->>'idempotency_key' IS NOT NULL THEN v_orders := v_orders || (v_jobs[n]->>'idempotency_key'); END IF;
  END LOOP;
  IF cardinality(v_jobs) > 1 THEN
    v_repeats := (SELECT count(DISTINCT job->>'id') < count(*) OR count(DISTINCT (job->>'key_id', job->>'idempotency_key'))
                      FILTER (WHERE job->>'idempotency_key' IS NOT NULL) < count(job->>'idempotency_key') FROM unnest(v_jobs) AS job);
  END IF;

  FOR v_round IN 1..2 LOOP
    IF v_round = 2 THEN
      v_read := read_levels(v_scopes, v_levels, true);
      v_is_new := v_read.budgets <> v_rows;
    END IF;
    -- Who made a job of these keys since the first look has changed their rows.
    v_look := look_at_calls(v_jobs, CASE WHEN v_is_new THEN v_ids END, v_keys, v_orders);
    EXIT WHEN NOT v_is_new AND v_look.modes = v_modes AND v_look.frozen = v_frozen;
    FOR n IN 1..cardinality(v_jobs) LOOP
      IF v_round = 1 OR v_known[n] IS NULL THEN v_results[n] := v_look.results[n]; END IF;
    END LOOP;
    IF v_round = 1 THEN v_known := v_results; END IF;
    v_modes := v_look.modes;
    v_frozen := v_look.frozen;
    IF v_round = 1 AND cardinality(v_jobs) = 1 THEN
      IF v_results[1] IS NOT NULL THEN RETURN to_jsonb(v_results); END IF;
      v_scopes := ARRAY['key', 'team', 'org'];
      v_levels := ARRAY[v_keys[1], v_jobs[1]->>'team_id', v_jobs[1]->>'org_id'];
    ELSIF v_round = 1 THEN
      SELECT array_agg(x.scope ORDER BY place, id), array_agg(x.id ORDER BY place, id) INTO v_scopes, v_levels
        FROM (SELECT DISTINCT l.place, l.scope, l.id FROM unnest(v_jobs, v_modes) AS c(job, mode), LATERAL (VALUES
                (1, 'key', job->>'key_id'), (2, 'team', job->>'team_id'), (3, 'org', job->>'org_id')) AS l(place, scope, id)
               WHERE mode IS NOT NULL) AS x;
      IF v_levels IS NULL THEN RETURN to_jsonb(v_results); END IF;
    END IF;
    IF v_round = 1 THEN v_read := read_levels(v_scopes, v_levels, false); END IF;
    v_rows := v_read.budgets;
    v_months := v_read.months;
    v_days := v_read.days;

    v_held := array_fill(0::bigint, ARRAY[cardinality(v_rows)]);
    v_taken := array_fill(0, ARRAY[cardinality(v_rows)]);
    v_accepted := '{}';
    v_amounts := '{}';
    v_leg_calls := '{}';
    v_leg_rows := '{}';
    <<calls>>
    FOR n IN 1..cardinality(v_jobs) LOOP
      CONTINUE WHEN v_results[n] IS NOT NULL;
      j := v_jobs[n];
      FOREACH k IN ARRAY CASE WHEN v_repeats THEN v_accepted ELSE '{}' END LOOP
        IF v_ids[k] = v_ids[n] OR (v_keys[k] = v_keys[n] AND v_jobs[k]->>'idempotency_key' = j->>'idempotency_key') THEN
          -- The answer to an equal call is that of a repeat once this one is over.
          v_results[n] := '{"ok": false, "reason": "repeated"}';
          CONTINUE calls;
        END IF;
      END LOOP;
      v_amount := (v_calls[n]->>'unit_micros')::bigint * (j->>'n')::int;
      v_touched := '{}';
      v_max := NULL;
      v_free := NULL;
      FOREACH v_at IN ARRAY ARRAY[array_position(v_levels, v_keys[n]), array_position(v_levels, j->>'team_id'),
                                  array_position(v_levels, j->>'org_id')] LOOP
        -- The month goes before the day: who is refused by both has to hear of the one that lasts longer.
        FOREACH k IN ARRAY ARRAY[v_at, v_months[v_at], v_days[v_at]] LOOP
          CONTINUE WHEN k IS NULL;
          b := v_rows[k];
          b.held_micros := b.held_micros + v_held[k];
          b.inflight := b.inflight + v_taken[k];
          v_results[n] := budget_refusal(b, v_amount);
          CONTINUE calls WHEN v_results[n] IS NOT NULL;
          v_touched := v_touched || k;
          -- The caller is told of the level with the fewest free places.
          IF b.max_inflight - b.inflight < coalesce(v_free, 2147483647) THEN
            v_max := b.max_inflight;
            v_free := b.max_inflight - b.inflight;
          END IF;
        END LOOP;
      END LOOP;
      -- Credit that is not there is named first.
      IF v_frozen[n] THEN
        v_results[n] := '{"ok": false, "reason": "org_frozen"}';
        CONTINUE;
      END IF;
      FOREACH k IN ARRAY v_touched LOOP
        v_held[k] := v_held[k] + v_amount;
        v_taken[k] := v_taken[k] + 1;
        v_leg_calls := v_leg_calls || ('res_' || substr(v_ids[n], 5));
        v_leg_rows := v_leg_rows || k;
      END LOOP;
      v_accepted := v_accepted || n;
      v_amounts := v_amounts || v_amount;
      v_results[n] := jsonb_build_object('ok', true, 'replayed', false, 'job_id', v_ids[n], 'state', 'accepted',
                                         'inflight', v_max - v_free + 1, 'max_inflight', v_max);
    END LOOP;
    IF v_accepted = '{}' THEN RETURN to_jsonb(v_results); END IF;
  END LOOP;

  IF cardinality(v_accepted) < cardinality(v_calls) THEN
    v_calls := ARRAY(SELECT v_calls[a] FROM unnest(v_accepted) AS a);
    v_jobs := ARRAY(SELECT v_jobs[a] FROM unnest(v_accepted) AS a);
    v_ids := ARRAY(SELECT v_ids[a] FROM unnest(v_accepted) AS a);
    v_modes := ARRAY(SELECT v_modes[a] FROM unnest(v_accepted) AS a);
  END IF;
  v_outbox := write_reservations(v_calls, v_jobs, v_ids, v_amounts, v_modes);
  FOR n IN 1..cardinality(v_accepted) LOOP
    k := v_accepted[n];
    v_results[k] := v_results[k] || jsonb_build_object('outbox_id', v_outbox[n]::text);
  END LOOP;
  v_ids := '{}';
  FOR n IN 1..cardinality(v_rows) LOOP
    b := v_rows[n];
    IF b.id IS NULL AND v_taken[n] > 0 THEN b.id := ensure_period(b, b.kind, b.period_start, b.limit_micros); END IF;
    v_ids[n] := CASE WHEN v_taken[n] > 0 THEN b.id END;
  END LOOP;
  UPDATE budget SET held_micros = held_micros + v_held[array_position(v_ids, id)],
                    inflight = inflight + CASE kind WHEN 'balance' THEN v_taken[array_position(v_ids, id)] ELSE 0 END
   WHERE id = ANY (v_ids);
  INSERT INTO reservation_leg (reservation_id, budget_id)
  SELECT x.reservation, v_ids[x.place] FROM unnest(v_leg_calls, v_leg_rows) AS x(reservation, place);
  RETURN to_jsonb(v_results);
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
