-- Ending a job: one call, once.

-- Locks the balance rows that a reservation lies on, in order. Under their locks no month row gains or loses a leg,
-- and what follows them in the lock order (grants, counters) is the caller's.
CREATE OR REPLACE FUNCTION lock_legs(p_reservation text) RETURNS void LANGUAGE sql AS $$
  SELECT 1 FROM budget
   WHERE id = ANY (ARRAY(SELECT budget_id FROM reservation_leg WHERE reservation_id = p_reservation)) AND kind = 'balance'
   ORDER BY array_position(ARRAY['key', 'team', 'org'], scope) FOR NO KEY UPDATE
$$;

-- Moves a settled hold out of every row that it lies on; the balance rows are locked. A limit that waits to come down
-- follows what is committed. Tells the org of thresholds that are passed now.
CREATE OR REPLACE FUNCTION settle_legs(p_org text, p_reservation text, p_amount bigint, p_captured bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  v_ids constant text[] := ARRAY(SELECT budget_id FROM reservation_leg WHERE reservation_id = p_reservation);
  v_watched text[];
BEGIN
  WITH moved AS (
    UPDATE budget SET held_micros = held_micros - p_amount, spent_micros = spent_micros + p_captured,
                      inflight = inflight - CASE kind WHEN 'balance' THEN 1 ELSE 0 END,
                      limit_micros = CASE WHEN limit_next_micros IS NULL THEN limit_micros
                        ELSE limit_over(limit_next_micros, held_micros + spent_micros - p_amount + p_captured) END,
                      limit_next_micros = limit_wish(limit_next_micros, held_micros + spent_micros - p_amount + p_captured)
     WHERE id = ANY (v_ids)
    RETURNING id, soft_bp, limit_micros
  ) SELECT array_agg(id) INTO v_watched FROM moved WHERE soft_bp <> '{}' AND limit_micros IS NOT NULL;
  IF v_watched IS NOT NULL THEN PERFORM alert_thresholds(p_org, v_watched); END IF;
END $$;

DROP FUNCTION IF EXISTS settle_legs(text, bigint, bigint);

-- The event of a finished job and its deliveries: every enabled endpoint that wants it, and the job's own URL.
CREATE OR REPLACE FUNCTION stage_job_event(j job, p_payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  v_event constant text := 'evt_' || substr(j.id, 5);
BEGIN
  INSERT INTO webhook_event (id, org_id, type, subject_id, payload)
  VALUES (v_event, j.org_id, p_payload->>'type', j.id, p_payload);
  INSERT INTO webhook_delivery (id, event_id, org_id, endpoint_id, url, state)
  SELECT new_id('whd'), v_event, j.org_id, e.id, e.url, 'pending' FROM webhook_endpoint e
   WHERE e.org_id = j.org_id AND e.enabled AND e.deleted_at IS NULL
     AND (e.event_types = '{}' OR p_payload->>'type' = ANY (e.event_types));
  IF j.webhook_url IS NOT NULL THEN
    INSERT INTO webhook_delivery (id, event_id, org_id, endpoint_id, url, state)
    VALUES (new_id('whd'), v_event, j.org_id, NULL, j.webhook_url, 'pending');
  END IF;
END $$;

-- Writes the usage lines of a job's pictures. Promotional credit pays the first of them.
CREATE OR REPLACE FUNCTION write_usage(j job, r reservation, p_lines jsonb, p_promo bigint) RETURNS void LANGUAGE sql AS $$
  INSERT INTO usage_event (id, job_id, idx, org_id, team_id, key_id, sku_id, price_version_id, list_version_id,
                           org_price_id, tier_position, list_micros, discount_micros, net_micros, credit_micros)
  SELECT 'use_' || substr(j.id, 5) || '_' || l.idx, j.id, l.idx, j.org_id, j.team_id, j.key_id, p.sku_id, p.id,
         r.list_version_id, r.org_price_id, l.tier_position, l.list, l.list - l.net, l.net,
         greatest(0, least(l.net, p_promo - (sum(l.net) OVER (ORDER BY l.idx) - l.net)))
    FROM jsonb_to_recordset(p_lines) AS l(idx int, list bigint, net bigint, tier_position bigint), price_version p
   WHERE p.id = r.price_version_id
$$;

-- Ends a job, once: captures the price of each stored image, releases the rest, writes usage, ledger and
-- event. A repeat returns the first result; a caller whose attempt is no longer the job's own changes nothing.
CREATE OR REPLACE FUNCTION settle_job(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  v_attempt constant int := (input->>'attempt')::int;
  v_outcome constant text := input->>'outcome';
  j job;
  r reservation;
  v_mode text;
  v_delivered int;
  v_lines jsonb;
  v_captured bigint;
  v_paid bigint := 0;
  v_promo bigint := 0;
  v_state text;
  v_reason text;
BEGIN
  SELECT * INTO j FROM job WHERE id = input->>'job_id' FOR UPDATE;
  IF NOT FOUND OR (v_attempt IS NOT NULL AND j.attempt <> v_attempt) THEN
    RETURN jsonb_build_object('outcome', 'superseded');
  END IF;
  SELECT * INTO r FROM reservation WHERE job_id = j.id;
  SELECT count(*) INTO v_delivered FROM job_output WHERE job_id = j.id;
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
  v_reason := coalesce(input->>'billed_reason', CASE WHEN v_delivered = j.n THEN 'delivered'
                                                     WHEN v_delivered > 0 THEN 'partial' ELSE v_outcome END);

  SELECT settlement_mode INTO v_mode FROM org WHERE id = j.org_id;
  PERFORM lock_legs(r.id);
  v_lines := price_lines(j, r);
  v_captured := coalesce((SELECT sum((line->>'net')::bigint) FROM jsonb_array_elements(v_lines) AS line), 0);
  IF v_captured > 0 AND v_mode <> 'internal' THEN
    SELECT * INTO v_paid, v_promo FROM burn_credit(j.org_id, j.id, v_captured);
    IF v_mode = 'prepaid' AND v_paid + v_promo <> v_captured THEN
      RAISE EXCEPTION 'org % has less credit than its budget says', j.org_id;
    END IF;
  END IF;
  UPDATE reservation SET captured_micros = v_captured, settled_at = now(),
    state = CASE WHEN v_delivered > 0 THEN 'captured' WHEN v_outcome = 'expired' THEN 'expired' ELSE 'released' END
   WHERE id = r.id;
  PERFORM settle_legs(j.org_id, r.id, r.amount_micros, v_captured);
  PERFORM write_usage(j, r, v_lines, v_promo);
  -- An entry that is there already belongs to no settlement of this job: to go on would charge beside the ledger.
  IF r.amount_micros > 0 AND NOT post_transfer('release', substr(j.id, 5), income_account(v_mode),
       funding_account(j.org_id, j.team_id, v_mode), r.amount_micros, 'pending') THEN
    RAISE EXCEPTION 'the hold of job % was released before', j.id;
  END IF;
  IF v_captured > 0 AND NOT post_entries('charge', substr(j.id, 5), 'posted',
       ARRAY['prepaid:' || j.org_id, 'promo:' || j.org_id, funding_account(j.org_id, j.team_id, v_mode), income_account(v_mode)],
       ARRAY[v_paid, v_promo, v_captured - v_paid - v_promo, -v_captured]) THEN
    RAISE EXCEPTION 'job % was charged before', j.id;
  END IF;
  UPDATE job SET state = v_state, finished_at = now(), lease_until = NULL, billed_reason = v_reason,
                 error_code = input->>'error_code', error_message = input->>'error_message',
                 run_info = input->'run_info'
   WHERE id = j.id;
  PERFORM stage_job_event(j, jsonb_build_object('type', 'job.' || v_state, 'timestamp', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
    'data', jsonb_build_object('job_id', j.id, 'state', v_state, 'delivered', v_delivered,
      'billed', v_captured > 0, 'billed_reason', v_reason, 'request_id', j.caller_fields->'request_id')));
  RETURN jsonb_build_object('outcome', 'settled', 'state', v_state,
    'captured_micros', v_captured::text, 'delivered_count', v_delivered);
END $$;

ALTER FUNCTION settle_job(jsonb) SET search_path = public, pg_temp;

ALTER FUNCTION settle_job(jsonb) SET enable_seqscan = off;
