-- Ending a job: one call, once.

-- Locks the balance rows that a reservation lies on, in order. Under their locks no month row gains or loses a leg,
-- and what follows them in the lock order (grants, counters) is the caller's.
CREATE OR REPLACE FUNCTION lock_legs(p_reservation text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM 1 FROM budget
   WHERE id = ANY (ARRAY(SELECT budget_id FROM reservation_leg WHERE reservation_id = p_reservation)) AND kind = 'balance'
   ORDER BY array_position(ARRAY['key', 'team', 'org'], scope) FOR NO KEY UPDATE;
END $$;

-- Moves a settled hold out of every row that it lies on; the balance rows are locked. A limit that waits to come down
-- follows what is committed. Tells the org of thresholds that are passed now.
CREATE OR REPLACE FUNCTION settle_legs(p_org text, p_reservation text, p_amount bigint, p_captured bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  v_watched text[];
BEGIN
  WITH moved AS (
    UPDATE budget SET held_micros = held_micros - p_amount, spent_micros = spent_micros + p_captured,
                      inflight = inflight - CASE kind WHEN 'balance' THEN 1 ELSE 0 END,
                      limit_micros = CASE WHEN limit_next_micros IS NULL THEN limit_micros
                        ELSE limit_over(limit_next_micros, held_micros + spent_micros - p_amount + p_captured) END,
                      limit_next_micros = limit_wish(limit_next_micros, held_micros + spent_micros - p_amount + p_captured)
     WHERE id = ANY (ARRAY(SELECT budget_id FROM reservation_leg WHERE reservation_id = p_reservation))
    RETURNING id, soft_bp, limit_micros
  ) SELECT array_agg(id) INTO v_watched FROM moved WHERE soft_bp <> '{}' AND limit_micros IS NOT NULL;
  IF v_watched IS NOT NULL THEN PERFORM alert_thresholds(p_org, v_watched); END IF;
END $$;

DROP FUNCTION IF EXISTS settle_legs(text, bigint, bigint);

-- The event of a finished job and its deliveries: every enabled endpoint that wants it, and the job's own URL.
CREATE OR REPLACE FUNCTION stage_job_event(p_org text, p_job text, p_url text, p_payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  v_event constant text := 'evt_' || substr(p_job, 5);
  v_type constant text := p_payload->>'type';
BEGIN
  INSERT INTO webhook_event (id, org_id, type, subject_id, payload) VALUES (v_event, p_org, v_type, p_job, p_payload);
  INSERT INTO webhook_delivery (id, event_id, org_id, endpoint_id, url, state)
  SELECT new_id('whd'), v_event, p_org, e.id, e.url, 'pending' FROM endpoints_for(p_org, v_type) AS e;
  IF p_url IS NOT NULL THEN
    INSERT INTO webhook_delivery (id, event_id, org_id, endpoint_id, url, state)
    VALUES (new_id('whd'), v_event, p_org, NULL, p_url, 'pending');
  END IF;
END $$;

DROP FUNCTION IF EXISTS write_usage(job, reservation, jsonb, bigint), price_lines(job, reservation), stage_job_event(job, jsonb),
  write_usage(job, record, price_version, price_version, int[], int, bigint, bigint),
  post_settlement(job, text, bigint, bigint, bigint, bigint);

-- Writes the usage lines of a job's pictures, dated and priced by what was agreed when it was accepted. Promotional
-- credit pays the first of them. `p_before`: places of the month that were taken before, where the price has tiers.
CREATE OR REPLACE FUNCTION write_usage(
  j job, p_contract text, v price_version, v_list price_version, p_idxs int[], p_discount int, p_before bigint, p_promo bigint
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  v_suffix constant text := substr(j.id, 5);
  v_left bigint := p_promo;
  v_nets bigint[];
  v_lists bigint[];
  v_credits bigint[];
BEGIN
  FOR n IN 1..cardinality(p_idxs) LOOP
    v_nets[n] := image_price(v, p_before + n, p_discount);
    v_lists[n] := greatest(v_nets[n], image_price(v_list, p_before + n, 0));
    v_credits[n] := least(v_nets[n], v_left);
    v_left := v_left - v_credits[n];
  END LOOP;
  INSERT INTO usage_event (id, job_id, idx, org_id, team_id, key_id, sku_id, price_version_id, list_version_id,
                           org_price_id, tier_position, list_micros, discount_micros, net_micros, credit_micros)
  SELECT 'use_' || v_suffix || '_' || x.idx, j.id, x.idx, j.org_id, j.team_id, j.key_id, v.sku_id, v.id, v_list.id, p_contract,
         p_before + x.place, x.list, x.list - x.net, x.net, x.credit
    FROM unnest(p_idxs, v_lists, v_nets, v_credits) WITH ORDINALITY AS x(idx, list, net, credit, place);
END $$;

-- What a settled job leaves in the ledger: the hold is undone, what was captured is posted, in one statement. A
-- transaction that is there already belongs to no settlement of this job and fails it: to go on would charge beside the
-- ledger.
CREATE OR REPLACE FUNCTION post_settlement(
  p_job text, p_org text, p_team text, p_mode text, p_held bigint, p_captured bigint, p_paid bigint, p_promo bigint
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  v_source constant text := substr(p_job, 5);
  v_release constant text := 'led_release_' || v_source;
  v_charge constant text := 'led_charge_' || v_source;
  v_funding constant text := funding_account(p_org, p_team, p_mode);
  v_income constant text := income_account(p_mode);
BEGIN
  INSERT INTO ledger_txn (id, kind, source_id) VALUES (v_release, 'release', v_source) ON CONFLICT DO NOTHING;
  IF FOUND AND p_captured > 0 THEN
    INSERT INTO ledger_txn (id, kind, source_id) VALUES (v_charge, 'charge', v_source) ON CONFLICT DO NOTHING;
  END IF;
  IF NOT FOUND THEN RAISE EXCEPTION 'the hold of job % was released before, or the job charged', p_job; END IF;
  INSERT INTO ledger_entry (txn_id, account_id, amount_micros, phase)
  SELECT x.txn, x.account, x.amount, x.phase
    FROM (VALUES (v_release, v_income, p_held, 'pending'), (v_release, v_funding, -p_held, 'pending'),
                 (v_charge, 'prepaid:' || p_org, p_paid, 'posted'), (v_charge, 'promo:' || p_org, p_promo, 'posted'),
                 (v_charge, v_funding, p_captured - p_paid - p_promo, 'posted'), (v_charge, v_income, -p_captured, 'posted'))
         AS x(txn, account, amount, phase)
   WHERE x.amount <> 0;
END $$;

-- Ends a job, once: captures the price of each stored image that is to be charged, releases the rest, writes usage,
-- ledger and event. A stored image with an unbilled reason is delivered and costs nothing. A repeat returns the first
-- result; a caller whose attempt is no longer the job's own changes nothing.
CREATE OR REPLACE FUNCTION settle_job(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  v_attempt constant int := (input->>'attempt')::int;
  v_outcome constant text := input->>'outcome';
  j job;
  r record;
  v price_version;
  v_list price_version;
  v_idxs int[];
  v_discount int := 0;
  v_before bigint;
  v_delivered int;
  v_billed int;
  v_captured bigint := 0;
  v_paid bigint := 0;
  v_promo bigint := 0;
  v_state text;
  v_reason text;
BEGIN
  SELECT * INTO j FROM job WHERE id = input->>'job_id' FOR UPDATE;
  IF NOT FOUND OR (v_attempt IS NOT NULL AND j.attempt <> v_attempt) THEN
    RETURN jsonb_build_object('outcome', 'superseded');
  END IF;
  -- Of a job that is locked all of these stay as they are, but for the credit: what comes meanwhile comes after this job.
  SELECT res.*, o.settlement_mode AS mode, p.*,
         EXISTS (SELECT 1 FROM credit_grant WHERE org_id = j.org_id AND remaining_micros > 0) AS has_credit INTO r
    FROM reservation res, org o, LATERAL (
           SELECT count(*)::int AS delivered, coalesce(array_agg(idx ORDER BY idx) FILTER (WHERE unbilled_reason IS NULL), '{}') AS idxs,
                  min(unbilled_reason) AS unbilled, bool_and((text_check->>'passed')::boolean IS TRUE)
                    FILTER (WHERE text_check->>'status' <> 'nothing_expected') AS passed
             FROM job_output WHERE job_id = j.id) AS p
   WHERE res.job_id = j.id AND o.id = j.org_id;
  v_idxs := r.idxs;
  v_billed := cardinality(v_idxs);
  v_delivered := r.delivered;
  IF j.state IN ('succeeded', 'failed', 'canceled', 'expired') THEN
    RETURN jsonb_build_object('outcome', 'repeated', 'state', j.state,
      'captured_micros', r.captured_micros::text, 'delivered_count', v_delivered);
  END IF;
  -- Without an attempt the caller is no worker, and a worker that is alive goes first.
  IF (v_attempt IS NULL AND j.state = 'running' AND j.lease_until > now())
     OR (v_attempt IS NOT NULL AND j.state <> 'running') THEN
    RETURN jsonb_build_object('outcome', 'superseded');
  END IF;
  IF v_outcome = 'succeeded' AND v_delivered = 0 THEN
    RAISE EXCEPTION 'job % cannot succeed without a stored image', j.id;
  END IF;
  v_state := CASE WHEN v_delivered > 0 THEN 'succeeded' ELSE v_outcome END;
  v_reason := coalesce(input->>'billed_reason', CASE WHEN v_billed = j.n THEN 'delivered' WHEN v_billed > 0 THEN 'partial'
                                                     WHEN v_delivered > 0 THEN r.unbilled ELSE v_outcome END);

  -- As `lock_legs` does, of a hold that lies where its job was accepted; three rows by their keys are found more cheaply.
  PERFORM 1 FROM budget WHERE scope = 'key' AND scope_id = j.key_id AND kind = 'balance' AND period_start = 'epoch' FOR NO KEY UPDATE;
  PERFORM 1 FROM budget WHERE scope = 'team' AND scope_id = j.team_id AND kind = 'balance' AND period_start = 'epoch' FOR NO KEY UPDATE;
  PERFORM 1 FROM budget WHERE scope = 'org' AND scope_id = j.org_id AND kind = 'balance' AND period_start = 'epoch' FOR NO KEY UPDATE;
  IF v_billed > 0 THEN
    SELECT * INTO STRICT v FROM price_version WHERE id = r.price_version_id;
    v_list := v;
    IF r.list_version_id <> v.id THEN SELECT * INTO STRICT v_list FROM price_version WHERE id = r.list_version_id; END IF;
    IF r.org_price_id IS NOT NULL THEN SELECT discount_bp INTO STRICT v_discount FROM org_price WHERE id = r.org_price_id; END IF;
    IF v.tiers IS NULL THEN
      v_captured := v_billed * image_price(v, NULL, v_discount);
    ELSE
      v_before := take_places(j.org_id, v.sku_id, v_billed);
      v_captured := (SELECT sum(image_price(v, v_before + place, v_discount)) FROM generate_series(1, v_billed) AS place);
    END IF;
  END IF;
  IF v_captured > 0 AND (r.mode = 'prepaid' OR r.mode = 'postpaid' AND r.has_credit) THEN
    SELECT * INTO v_paid, v_promo FROM burn_credit(j.org_id, j.id, v_captured);
    IF r.mode = 'prepaid' AND v_paid + v_promo <> v_captured THEN
      RAISE EXCEPTION 'org % has less credit than its budget says', j.org_id;
    END IF;
  END IF;
  UPDATE reservation SET captured_micros = v_captured, settled_at = now(),
    state = CASE WHEN v_billed > 0 THEN 'captured' WHEN v_outcome = 'expired' THEN 'expired' ELSE 'released' END
   WHERE job_id = j.id;
  PERFORM settle_legs(j.org_id, r.id, r.amount_micros, v_captured);
  IF v_billed > 0 THEN PERFORM write_usage(j, r.org_price_id, v, v_list, v_idxs, v_discount, v_before, v_promo); END IF;
  IF r.amount_micros > 0 THEN PERFORM post_settlement(j.id, j.org_id, j.team_id, r.mode, r.amount_micros, v_captured, v_paid, v_promo); END IF;
  UPDATE job SET state = v_state, finished_at = now(), lease_until = NULL, billed_reason = v_reason,
                 error_code = input->>'error_code', error_message = input->>'error_message',
                 run_info = input->'run_info'
   WHERE id = j.id;
  DELETE FROM job_tokens WHERE job_id = j.id;
  PERFORM stage_job_event(j.org_id, j.id, j.webhook_url, jsonb_build_object('type', 'job.' || v_state, 'timestamp', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
    'data', jsonb_build_object('job_id', j.id, 'state', v_state, 'delivered', v_delivered,
      'billed', v_captured > 0, 'billed_reason', v_reason, 'text_passed', r.passed, 'request_id', j.caller_fields->'request_id')));
  RETURN jsonb_build_object('outcome', 'settled', 'state', v_state,
    'captured_micros', v_captured::text, 'delivered_count', v_delivered, 'billed_count', v_billed,
    'image_count', j.n, 'unbilled_reason', r.unbilled);
END $$;

ALTER FUNCTION settle_job(jsonb) SET search_path = public, pg_temp;

-- As in 04_reserve.
ALTER FUNCTION settle_job(jsonb) SET enable_seqscan = off;

ALTER FUNCTION settle_job(jsonb) SET plan_cache_mode = force_generic_plan;
