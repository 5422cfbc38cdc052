-- Accepting many jobs in one call, and saying why one is not accepted.

-- The same for any number of calls, and for the one that is not plainly accepted.
--
-- Round 1 looks without locks, so that what is plainly over writes nothing. Round 2 decides: it holds the balance rows
-- of all calls, key -> team -> org, and with them their days and months and every other call of these keys.
CREATE OR REPLACE FUNCTION reserve_batch(calls jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
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
  v_budgets text[];    -- their ids; null where nothing is added
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

  FOR n IN 1..cardinality(v_rows) LOOP
    b := v_rows[n];
    IF b.id IS NULL AND v_taken[n] > 0 THEN b.id := ensure_period(b, b.kind, b.period_start, b.limit_micros); END IF;
    v_budgets[n] := CASE WHEN v_taken[n] > 0 THEN b.id END;
  END LOOP;
  IF cardinality(v_accepted) < cardinality(v_calls) THEN
    v_calls := ARRAY(SELECT v_calls[a] FROM unnest(v_accepted) AS a);
    v_jobs := ARRAY(SELECT v_jobs[a] FROM unnest(v_accepted) AS a);
    v_ids := ARRAY(SELECT v_ids[a] FROM unnest(v_accepted) AS a);
    v_modes := ARRAY(SELECT v_modes[a] FROM unnest(v_accepted) AS a);
  END IF;
  v_outbox := write_reservations(v_calls, v_jobs, v_ids, v_amounts, v_modes, v_budgets, v_held, v_taken,
                                 v_leg_calls, ARRAY(SELECT v_budgets[place] FROM unnest(v_leg_rows) AS place));
  FOR n IN 1..cardinality(v_accepted) LOOP
    k := v_accepted[n];
    v_results[k] := v_results[k] || jsonb_build_object('outbox_id', v_outbox[n]::text);
  END LOOP;
  RETURN to_jsonb(v_results);
END $$;
