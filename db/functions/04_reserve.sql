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

-- The settlement mode of the org of a key that may start jobs; null when it may not.
CREATE OR REPLACE FUNCTION active_key_mode(p_key text, p_team text, p_org text) RETURNS text LANGUAGE sql VOLATILE AS $$
  SELECT o.settlement_mode FROM api_key k JOIN org o ON o.id = k.org_id
   WHERE k.id = p_key AND k.team_id = p_team AND k.org_id = p_org AND k.revoked_at IS NULL
     AND (k.expires_at IS NULL OR k.expires_at > now())
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

-- False when there is a job of this id or under this idempotency key; waits for one that is being made.
CREATE OR REPLACE FUNCTION insert_job(j jsonb) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO job (id, org_id, team_id, key_id, idempotency_key, request_hash, dialect, model, prompt, width,
                   height, n, quality, priority, seed, steps, guidance_scale, format, caller_fields, webhook_url, state, deadline_at)
  VALUES (j->>'id', j->>'org_id', j->>'team_id', j->>'key_id', j->>'idempotency_key', j->>'request_hash',
          j->>'dialect', j->>'model', j->>'prompt', (j->>'width')::int, (j->>'height')::int, (j->>'n')::int,
          coalesce(j->>'quality', 'hd'), coalesce(j->>'priority', 'standard'), (j->>'seed')::bigint, (j->>'steps')::int, (j->>'guidance_scale')::real, j->>'format',
          coalesce(j->'caller_fields', '{}'), j->>'webhook_url', 'accepted',
          now() + make_interval(secs => (j->>'deadline_seconds')::double precision))
  ON CONFLICT DO NOTHING;
  RETURN FOUND;
END $$;

-- Job, hold on every level, reservation, ledger hold and outbox row: all or nothing, in one round trip. Safe to
-- repeat under one job id: who lost the answer calls again and is told of the job that was made.
CREATE OR REPLACE FUNCTION reserve_job(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  j constant jsonb := input->'job';
  v_suffix constant text := substr(j->>'id', 5);
  v_unit constant bigint := (input->>'unit_micros')::bigint;
  v_amount constant bigint := v_unit * (j->>'n')::int;
  v_scopes constant text[] := ARRAY['key', 'team', 'org'];
  v_ids constant text[] := ARRAY[j->>'key_id', j->>'team_id', j->>'org_id'];
  v_legs text[] := ARRAY[]::text[];
  v_mode text;
  v_result jsonb;
  v_outbox bigint;
  v_row budget;
  v_max_inflight int;
  v_free int := 2147483647;
BEGIN
  v_result := earlier_job(j->>'id', v_ids[1], j->>'idempotency_key', j->>'request_hash');
  IF v_result IS NOT NULL THEN RETURN v_result; END IF;

  v_mode := active_key_mode(v_ids[1], v_ids[2], v_ids[3]);
  IF v_mode IS NULL THEN RETURN jsonb_build_object('ok', false, 'reason', 'key_inactive'); END IF;

  -- A look without locks refuses what is plainly over, so that a flood of refusals writes nothing. It also finds
  -- the level with the fewest free places, which the caller is told.
  FOR i IN 1..3 LOOP
    SELECT * INTO v_row FROM budget b WHERE b.scope = v_scopes[i] AND b.scope_id = v_ids[i]
       AND b.kind = 'balance' AND b.period_start = 'epoch';
    v_result := coalesce(budget_refusal(v_row, v_amount),
      CASE WHEN v_row.month_limit_micros IS NOT NULL THEN period_refusal(v_row, 'month', v_amount) END,
      CASE WHEN v_row.day_limit_micros IS NOT NULL THEN period_refusal(v_row, 'day', v_amount) END);
    IF v_result IS NOT NULL THEN RETURN v_result; END IF;
    IF v_row.max_inflight - v_row.inflight < v_free THEN
      v_max_inflight := v_row.max_inflight;
      v_free := v_row.max_inflight - v_row.inflight;
    END IF;
  END LOOP;

  IF NOT insert_job(j) THEN
    -- An equal call committed while this one was under way: the same again, or one under its idempotency key.
    v_result := earlier_job(j->>'id', v_ids[1], j->>'idempotency_key', j->>'request_hash');
    IF v_result IS NULL THEN RAISE EXCEPTION 'the id of job % is taken', j->>'id'; END IF;
    RETURN v_result;
  END IF;
  INSERT INTO reservation (id, job_id, state, unit_micros, amount_micros, price_version_id, list_version_id,
                           org_price_id, expires_at)
  VALUES ('res_' || v_suffix, j->>'id', 'held', v_unit, v_amount, input->>'price_version_id',
          coalesce(input->>'list_version_id', input->>'price_version_id'), input->>'org_price_id',
          now() + make_interval(secs => (j->>'deadline_seconds')::double precision));
  IF v_amount > 0 THEN
    PERFORM post_transfer('hold', v_suffix, funding_account(v_ids[3], v_ids[2], v_mode), income_account(v_mode), v_amount, 'pending');
  END IF;
  INSERT INTO outbox (topic, dedupe_key, payload)
  VALUES ('job.dispatch', (j->>'id') || ':0', jsonb_build_object('job_id', j->>'id', 'org_id', v_ids[3]))
  RETURNING id INTO v_outbox;

  -- The contended rows come last, the hottest (org) at the very end, so that they are locked shortest.
  FOR i IN 1..3 LOOP
    v_legs := v_legs || hold_on_level(v_scopes[i], v_ids[i], v_amount);
    IF i = 1 AND active_key_mode(v_ids[1], v_ids[2], v_ids[3]) IS NULL THEN
      -- Revoked since the look above. From here on a revocation waits for this call.
      RAISE EXCEPTION 'reservation refused' USING ERRCODE = 'GP402',
        DETAIL = jsonb_build_object('ok', false, 'reason', 'key_inactive')::text;
    END IF;
  END LOOP;
  INSERT INTO reservation_leg (reservation_id, budget_id) SELECT 'res_' || v_suffix, unnest(v_legs);
  RETURN jsonb_build_object('ok', true, 'replayed', false, 'job_id', j->>'id', 'state', 'accepted',
    'outbox_id', v_outbox::text, 'inflight', v_max_inflight - v_free + 1, 'max_inflight', v_max_inflight);
END $$;

-- Names are looked up in this schema alone, whatever the caller's session says.
ALTER FUNCTION reserve_job(jsonb) SET search_path = public, pg_temp;

ALTER FUNCTION earlier_job(text, text, text, text) SET search_path = public, pg_temp;

ALTER FUNCTION revoke_key(text, text) SET search_path = public, pg_temp;

-- Every statement finds its rows by key. A plan made while a table was nearly empty would read the whole of it
-- for every job, until the next ANALYZE.
ALTER FUNCTION reserve_job(jsonb) SET enable_seqscan = off;

-- And one plan is as good as another, so none is made for the values of each call.
ALTER FUNCTION reserve_job(jsonb) SET plan_cache_mode = force_generic_plan;

ALTER FUNCTION earlier_job(text, text, text, text) SET enable_seqscan = off;
