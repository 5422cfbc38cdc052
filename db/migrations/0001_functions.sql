-- Money and job functions. Their guarantees, lock order and what is not promised stand in billing/LEDGER.md.
-- Lock order everywhere: job row, then budget rows key -> team -> org. In a level the balance row comes first and
-- guards the month row: month rows are made, limited and counted only under its lock.

-- Budget rows are updated all day long in place; free room on the page keeps those updates off the indexes.
ALTER TABLE budget SET (fillfactor = 50);
--> statement-breakpoint
ALTER TABLE job SET (fillfactor = 80);
--> statement-breakpoint
INSERT INTO sku (id, model, size_class, unit) VALUES ('sku_glm_image', 'glm-image', 'any', 'image');
--> statement-breakpoint
INSERT INTO price_book (id, name, currency) VALUES ('default', 'List prices', 'USD');
--> statement-breakpoint
INSERT INTO price_version (id, book_id, sku_id, price_micros, per_units, valid_from)
VALUES ('price_glm_image_1', 'default', 'sku_glm_image', 15000, 1, '2026-01-01T00:00:00Z');
--> statement-breakpoint
INSERT INTO ledger_account (id, org_id, type)
VALUES ('revenue', NULL, 'revenue'), ('recovery', NULL, 'recovery'), ('clearing', NULL, 'clearing');
--> statement-breakpoint

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '% is append-only', TG_TABLE_NAME;
END $$;
--> statement-breakpoint
CREATE TRIGGER ledger_entry_append_only BEFORE UPDATE OR DELETE ON ledger_entry
  FOR EACH ROW EXECUTE FUNCTION refuse_change();
--> statement-breakpoint
CREATE TRIGGER ledger_txn_append_only BEFORE UPDATE OR DELETE ON ledger_txn
  FOR EACH ROW EXECUTE FUNCTION refuse_change();
--> statement-breakpoint
CREATE TRIGGER usage_event_append_only BEFORE UPDATE OR DELETE ON usage_event
  FOR EACH ROW EXECUTE FUNCTION refuse_change();
--> statement-breakpoint
CREATE TRIGGER price_version_append_only BEFORE UPDATE OR DELETE ON price_version
  FOR EACH ROW EXECUTE FUNCTION refuse_change();
--> statement-breakpoint
CREATE TRIGGER ledger_entry_keep BEFORE TRUNCATE ON ledger_entry EXECUTE FUNCTION refuse_change();
--> statement-breakpoint
CREATE TRIGGER ledger_txn_keep BEFORE TRUNCATE ON ledger_txn EXECUTE FUNCTION refuse_change();
--> statement-breakpoint
CREATE TRIGGER usage_event_keep BEFORE TRUNCATE ON usage_event EXECUTE FUNCTION refuse_change();
--> statement-breakpoint
CREATE TRIGGER price_version_keep BEFORE TRUNCATE ON price_version EXECUTE FUNCTION refuse_change();
--> statement-breakpoint

CREATE FUNCTION ledger_txn_balances() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (
    SELECT 1 FROM ledger_entry WHERE txn_id = NEW.txn_id GROUP BY phase HAVING sum(amount_micros) <> 0
  ) THEN
    RAISE EXCEPTION 'ledger transaction % does not sum to zero', NEW.txn_id;
  END IF;
  RETURN NULL;
END $$;
--> statement-breakpoint
-- Deferred, so that the entries of one transaction may be written one after the other.
CREATE CONSTRAINT TRIGGER ledger_txn_balances AFTER INSERT ON ledger_entry
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ledger_txn_balances();
--> statement-breakpoint

-- The same form as ids made outside: prefix, 10 characters of time, 16 random ones.
CREATE FUNCTION new_id(prefix text) RETURNS text LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  alphabet constant text := '0123456789abcdefghjkmnpqrstvwxyz';
  rest bigint := (extract(epoch FROM clock_timestamp()) * 1000)::bigint;
  random bytea := uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid());
  made text := '';
BEGIN
  FOR i IN 1..10 LOOP
    made := substr(alphabet, (rest % 32)::int + 1, 1) || made;
    rest := rest / 32;
  END LOOP;
  FOR i IN 0..31 BY 2 LOOP
    made := made || substr(alphabet, (get_byte(random, i) # get_byte(random, i + 1)) % 32 + 1, 1);
  END LOOP;
  RETURN prefix || '_' || made;
END $$;
--> statement-breakpoint

-- One balanced transaction of two entries. (kind, source) is unique: a repeat posts nothing and says so.
CREATE FUNCTION post_transfer(
  p_kind text, p_source text, p_debit text, p_credit text, p_amount bigint, p_phase text
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  v_txn text := 'led_' || p_kind || '_' || p_source;
BEGIN
  INSERT INTO ledger_txn (id, kind, source_id) VALUES (v_txn, p_kind, p_source)
    ON CONFLICT DO NOTHING;
  IF NOT FOUND THEN RETURN false; END IF;
  INSERT INTO ledger_entry (txn_id, account_id, amount_micros, phase)
    VALUES (v_txn, p_debit, p_amount, p_phase), (v_txn, p_credit, -p_amount, p_phase);
  RETURN true;
END $$;
--> statement-breakpoint

-- Where an org's charges go: what it has paid ahead, what it owes, or what its teams cost.
CREATE FUNCTION funding_account(p_org text, p_mode text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE p_mode WHEN 'prepaid' THEN 'prepaid:' WHEN 'postpaid' THEN 'receivable:' ELSE 'team_cost:' END || p_org
$$;
--> statement-breakpoint
CREATE FUNCTION income_account(p_mode text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE p_mode WHEN 'internal' THEN 'recovery' ELSE 'revenue' END
$$;
--> statement-breakpoint

-- Prepaid credit of an org, once per source. Returns false when that source was granted before.
CREATE FUNCTION grant_credit(p_org text, p_amount bigint, p_source text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  IF p_amount <= 0 THEN RAISE EXCEPTION 'credit must be positive, got %', p_amount; END IF;
  IF NOT post_transfer('credit', p_source, 'clearing', 'prepaid:' || p_org, p_amount, 'posted') THEN
    RETURN false;
  END IF;
  UPDATE budget SET limit_micros = coalesce(limit_micros, 0) + p_amount
    WHERE scope = 'org' AND scope_id = p_org AND kind = 'balance';
  IF NOT FOUND THEN RAISE EXCEPTION 'org % has no balance row', p_org; END IF;
  RETURN true;
END $$;
--> statement-breakpoint

-- Why a budget row cannot take an amount more, as the caller sees it; null when it can.
CREATE FUNCTION budget_refusal(b budget, p_amount bigint) RETURNS jsonb LANGUAGE sql STABLE AS $$
  SELECT CASE
    WHEN b.held_micros + b.spent_micros + p_amount > b.limit_micros THEN jsonb_build_object(
      'ok', false,
      'reason', CASE b.kind WHEN 'month' THEN 'budget_exceeded' ELSE 'insufficient_credit' END,
      'scope', b.scope, 'limit_micros', b.limit_micros::text, 'spent_micros', b.spent_micros::text,
      'held_micros', b.held_micros::text, 'amount_micros', p_amount::text, 'resets_at', b.period_end)
    WHEN b.inflight >= b.max_inflight THEN jsonb_build_object(
      'ok', false, 'reason', 'too_many_inflight', 'scope', b.scope,
      'inflight', b.inflight, 'max_inflight', b.max_inflight)
  END
$$;
--> statement-breakpoint

-- The start of the calendar month in UTC.
CREATE FUNCTION month_start() RETURNS timestamptz LANGUAGE sql STABLE AS $$
  SELECT date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'
$$;
--> statement-breakpoint

-- This month's row of a level; made when the month's first job comes. Only under the lock of the balance row.
CREATE FUNCTION ensure_month(p_scope text, p_scope_id text, p_limit bigint) RETURNS void LANGUAGE sql AS $$
  INSERT INTO budget (id, scope, scope_id, kind, period_start, period_end, limit_micros)
  VALUES (new_id('bud'), p_scope, p_scope_id, 'month', month_start(),
          (month_start() AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC', p_limit)
  ON CONFLICT (scope, scope_id, kind, period_start) DO NOTHING
$$;
--> statement-breakpoint

-- Adds a hold to one row or refuses the whole reservation: the raised error undoes everything before it.
-- Returns a row of nulls when there is no such row.
CREATE FUNCTION hold_on_budget(p_scope text, p_scope_id text, p_kind text, p_start timestamptz, p_amount bigint)
RETURNS budget LANGUAGE plpgsql AS $$
DECLARE
  v_row budget;
BEGIN
  UPDATE budget SET held_micros = held_micros + p_amount,
                    inflight = inflight + CASE kind WHEN 'balance' THEN 1 ELSE 0 END
   WHERE scope = p_scope AND scope_id = p_scope_id AND kind = p_kind AND period_start = p_start
     AND (limit_micros IS NULL OR held_micros + spent_micros + p_amount <= limit_micros)
     AND (max_inflight IS NULL OR inflight < max_inflight)
  RETURNING * INTO v_row;
  IF FOUND THEN RETURN v_row; END IF;
  SELECT * INTO v_row FROM budget
   WHERE scope = p_scope AND scope_id = p_scope_id AND kind = p_kind AND period_start = p_start;
  IF NOT FOUND THEN RETURN NULL; END IF;
  -- Room may have come back between the two statements; the refusal then states the row as it is now.
  RAISE EXCEPTION 'reservation refused' USING ERRCODE = 'GP402', DETAIL = coalesce(
    budget_refusal(v_row, p_amount),
    jsonb_build_object('ok', false, 'reason', 'too_many_inflight', 'scope', p_scope,
                       'inflight', v_row.inflight, 'max_inflight', coalesce(v_row.max_inflight, v_row.inflight)))::text;
END $$;
--> statement-breakpoint

-- Holds on a level's balance row and, where it sets a monthly limit, on this month's. Returns their ids.
CREATE FUNCTION hold_on_level(p_scope text, p_scope_id text, p_amount bigint) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
  v_balance budget;
  v_month budget;
BEGIN
  v_balance := hold_on_budget(p_scope, p_scope_id, 'balance', 'epoch', p_amount);
  IF v_balance.id IS NULL THEN RAISE EXCEPTION '% % has no balance row', p_scope, p_scope_id; END IF;
  IF v_balance.month_limit_micros IS NULL THEN RETURN ARRAY[v_balance.id]; END IF;
  v_month := hold_on_budget(p_scope, p_scope_id, 'month', month_start(), p_amount);
  IF v_month.id IS NULL THEN
    PERFORM ensure_month(p_scope, p_scope_id, v_balance.month_limit_micros);
    v_month := hold_on_budget(p_scope, p_scope_id, 'month', month_start(), p_amount);
  END IF;
  RETURN ARRAY[v_balance.id, v_month.id];
END $$;
--> statement-breakpoint

-- A monthly limit that is set in mid-month counts the whole month: what was accepted since its start gets a leg.
CREATE FUNCTION set_month_limit(b budget, p_limit bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  v_org constant text := CASE b.scope WHEN 'org' THEN b.scope_id
    WHEN 'team' THEN (SELECT org_id FROM team WHERE id = b.scope_id)
    ELSE (SELECT org_id FROM api_key WHERE id = b.scope_id) END;
BEGIN
  IF p_limit IS NOT NULL AND b.month_limit_micros IS NULL THEN
    PERFORM ensure_month(b.scope, b.scope_id, NULL);
    WITH month AS (
      SELECT id FROM budget
       WHERE scope = b.scope AND scope_id = b.scope_id AND kind = 'month' AND period_start = month_start()
    ), missing AS (
      SELECT month.id AS month_id, r.id, r.state, r.amount_micros, r.captured_micros
        FROM month, job j JOIN reservation r ON r.job_id = j.id
       WHERE j.org_id = v_org AND r.created_at >= month_start()
         AND CASE b.scope WHEN 'key' THEN j.key_id WHEN 'team' THEN j.team_id ELSE j.org_id END = b.scope_id
         AND NOT EXISTS (SELECT 1 FROM reservation_leg l WHERE l.reservation_id = r.id AND l.budget_id = month.id)
    ), legs AS (
      INSERT INTO reservation_leg (reservation_id, budget_id) SELECT id, month_id FROM missing
    ), sums AS (
      SELECT month_id, sum(amount_micros) FILTER (WHERE state = 'held') AS held, sum(captured_micros) AS spent
        FROM missing GROUP BY month_id
    )
    UPDATE budget SET held_micros = held_micros + coalesce(sums.held, 0),
                      spent_micros = spent_micros + sums.spent
      FROM sums WHERE budget.id = sums.month_id;
  END IF;
  UPDATE budget SET limit_micros = p_limit
   WHERE scope = b.scope AND scope_id = b.scope_id AND kind = 'month' AND period_start = month_start();
END $$;
--> statement-breakpoint

-- Changes the limits that are named in the document; a null takes one away. Says what came of it.
CREATE FUNCTION set_budget(p_scope text, p_scope_id text, p_changes jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  b budget;
BEGIN
  SELECT * INTO b FROM budget
   WHERE scope = p_scope AND scope_id = p_scope_id AND kind = 'balance' FOR NO KEY UPDATE;
  IF NOT FOUND THEN RETURN 'not_found'; END IF;
  -- What was paid ahead is in the ledger; a limit changed beside it would part the two.
  IF p_changes ? 'limit_micros' AND p_scope = 'org'
     AND EXISTS (SELECT 1 FROM org WHERE id = p_scope_id AND settlement_mode = 'prepaid') THEN
    RETURN 'credit_is_granted';
  END IF;
  UPDATE budget SET
    limit_micros = CASE WHEN p_changes ? 'limit_micros'
      THEN (p_changes->>'limit_micros')::bigint ELSE limit_micros END,
    month_limit_micros = CASE WHEN p_changes ? 'month_limit_micros'
      THEN (p_changes->>'month_limit_micros')::bigint ELSE month_limit_micros END,
    max_inflight = CASE WHEN p_changes ? 'max_inflight'
      THEN (p_changes->>'max_inflight')::int ELSE max_inflight END
   WHERE id = b.id;
  IF p_changes ? 'month_limit_micros' THEN
    PERFORM set_month_limit(b, (p_changes->>'month_limit_micros')::bigint);
  END IF;
  RETURN 'changed';
EXCEPTION WHEN check_violation THEN
  RETURN 'below_committed';
END $$;
--> statement-breakpoint

-- Revokes a key of an org for good. A reservation of this key that is under way holds the key's balance row, so
-- this waits for it; whoever takes that row later sees the key revoked.
CREATE FUNCTION revoke_key(p_org text, p_key text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  PERFORM 1 FROM budget b JOIN api_key k ON k.id = b.scope_id
   WHERE b.scope = 'key' AND b.scope_id = p_key AND b.kind = 'balance' AND k.org_id = p_org
     FOR NO KEY UPDATE OF b;
  UPDATE api_key SET revoked_at = coalesce(revoked_at, now()) WHERE id = p_key AND org_id = p_org;
  RETURN FOUND;
END $$;
--> statement-breakpoint

-- The settlement mode of the org of a key that may start jobs; null when it may not.
CREATE FUNCTION active_key_mode(p_key text, p_team text, p_org text) RETURNS text LANGUAGE sql VOLATILE AS $$
  SELECT o.settlement_mode FROM api_key k JOIN org o ON o.id = k.org_id
   WHERE k.id = p_key AND k.team_id = p_team AND k.org_id = p_org AND k.revoked_at IS NULL
     AND (k.expires_at IS NULL OR k.expires_at > now())
$$;
--> statement-breakpoint

CREATE FUNCTION replay_job(p_key text, p_idempotency text, p_hash text) RETURNS jsonb LANGUAGE sql STABLE AS $$
  SELECT CASE WHEN request_hash = p_hash
    THEN jsonb_build_object('ok', true, 'replayed', true, 'job_id', id, 'state', state, 'outbox_id', NULL)
    ELSE jsonb_build_object('ok', false, 'reason', 'idempotency_mismatch') END
  FROM job WHERE key_id = p_key AND idempotency_key = p_idempotency
$$;
--> statement-breakpoint

CREATE FUNCTION insert_job(j jsonb) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO job (id, org_id, team_id, key_id, idempotency_key, request_hash, dialect, model, prompt, width,
                   height, n, seed, steps, guidance_scale, format, caller_fields, webhook_url, state, deadline_at)
  VALUES (j->>'id', j->>'org_id', j->>'team_id', j->>'key_id', j->>'idempotency_key', j->>'request_hash',
          j->>'dialect', j->>'model', j->>'prompt', (j->>'width')::int, (j->>'height')::int, (j->>'n')::int,
          (j->>'seed')::bigint, (j->>'steps')::int, (j->>'guidance_scale')::real, j->>'format',
          coalesce(j->'caller_fields', '{}'), j->>'webhook_url', 'accepted',
          now() + make_interval(secs => (j->>'deadline_seconds')::double precision))
  ON CONFLICT (key_id, idempotency_key) DO NOTHING;
  RETURN FOUND;
END $$;
--> statement-breakpoint

-- Job, hold on every level, reservation, ledger hold and outbox row: all or nothing, in one round trip.
CREATE FUNCTION reserve_job(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  j constant jsonb := input->'job';
  v_suffix constant text := substr(j->>'id', 5);
  v_unit constant bigint := (input->>'unit_micros')::bigint;
  v_amount constant bigint := v_unit * (j->>'n')::int;
  v_month constant timestamptz := month_start();
  v_scopes constant text[] := ARRAY['key', 'team', 'org'];
  v_ids constant text[] := ARRAY[j->>'key_id', j->>'team_id', j->>'org_id'];
  v_legs text[] := ARRAY[]::text[];
  v_mode text;
  v_result jsonb;
  v_outbox bigint;
  v_row budget;
BEGIN
  IF j->>'idempotency_key' IS NOT NULL THEN
    v_result := replay_job(v_ids[1], j->>'idempotency_key', j->>'request_hash');
    IF v_result IS NOT NULL THEN RETURN v_result; END IF;
  END IF;

  v_mode := active_key_mode(v_ids[1], v_ids[2], v_ids[3]);
  IF v_mode IS NULL THEN RETURN jsonb_build_object('ok', false, 'reason', 'key_inactive'); END IF;

  -- A look without locks refuses what is plainly over, so that a flood of refusals writes nothing.
  FOR i IN 1..3 LOOP
    FOR v_row IN SELECT * FROM budget b WHERE b.scope = v_scopes[i] AND b.scope_id = v_ids[i]
        AND ((b.kind = 'balance' AND b.period_start = 'epoch') OR (b.kind = 'month' AND b.period_start = v_month)) LOOP
      v_result := budget_refusal(v_row, v_amount);
      IF v_result IS NOT NULL THEN RETURN v_result; END IF;
    END LOOP;
  END LOOP;

  IF NOT insert_job(j) THEN
    -- The same idempotency key committed while this call was under way.
    RETURN replay_job(v_ids[1], j->>'idempotency_key', j->>'request_hash');
  END IF;
  INSERT INTO reservation (id, job_id, state, unit_micros, amount_micros, price_version_id, expires_at)
  VALUES ('res_' || v_suffix, j->>'id', 'held', v_unit, v_amount, input->>'price_version_id',
          now() + make_interval(secs => (j->>'deadline_seconds')::double precision));
  IF v_amount > 0 THEN
    PERFORM post_transfer('hold', v_suffix, funding_account(v_ids[3], v_mode), income_account(v_mode), v_amount, 'pending');
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
  RETURN jsonb_build_object('ok', true, 'replayed', false, 'job_id', j->>'id', 'state', 'accepted', 'outbox_id', v_outbox::text);
END $$;
--> statement-breakpoint

-- Moves a settled hold out of every row that it lies on. The balance rows are locked first, in order; under their
-- locks no month row gains or loses a leg, so the second look at the legs finds all of them.
CREATE FUNCTION settle_legs(p_reservation text, p_amount bigint, p_captured bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  v_ids text[] := ARRAY(SELECT budget_id FROM reservation_leg WHERE reservation_id = p_reservation);
BEGIN
  PERFORM 1 FROM budget WHERE id = ANY (v_ids) AND kind = 'balance'
    ORDER BY array_position(ARRAY['key', 'team', 'org'], scope) FOR NO KEY UPDATE;
  v_ids := ARRAY(SELECT budget_id FROM reservation_leg WHERE reservation_id = p_reservation);
  UPDATE budget SET held_micros = held_micros - p_amount, spent_micros = spent_micros + p_captured,
                    inflight = inflight - CASE kind WHEN 'balance' THEN 1 ELSE 0 END
   WHERE id = ANY (v_ids);
END $$;
--> statement-breakpoint

-- The event of a finished job and its deliveries: every enabled endpoint that wants it, and the job's own URL.
CREATE FUNCTION stage_job_event(j job, p_payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
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
--> statement-breakpoint

-- Ends a job, once: captures the unit price of each stored image, releases the rest, writes usage, ledger and
-- event. A repeat returns the first result; a caller whose attempt is no longer the job's own changes nothing.
CREATE FUNCTION settle_job(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  v_attempt constant int := (input->>'attempt')::int;
  v_outcome constant text := input->>'outcome';
  j job;
  r reservation;
  v_mode text;
  v_delivered int;
  v_captured bigint;
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
  v_captured := r.unit_micros * v_delivered;
  v_reason := coalesce(input->>'billed_reason', CASE WHEN v_delivered = j.n THEN 'delivered'
                                                     WHEN v_delivered > 0 THEN 'partial' ELSE v_outcome END);

  UPDATE reservation SET captured_micros = v_captured, settled_at = now(),
    state = CASE WHEN v_delivered > 0 THEN 'captured' WHEN v_outcome = 'expired' THEN 'expired' ELSE 'released' END
   WHERE id = r.id;
  PERFORM settle_legs(r.id, r.amount_micros, v_captured);
  INSERT INTO usage_event (id, job_id, idx, org_id, team_id, key_id, sku_id, price_version_id,
                           list_micros, discount_micros, net_micros)
  SELECT 'use_' || substr(j.id, 5) || '_' || o.idx, j.id, o.idx, j.org_id, j.team_id, j.key_id, p.sku_id, p.id,
         r.unit_micros, 0, r.unit_micros
    FROM job_output o, price_version p WHERE o.job_id = j.id AND p.id = r.price_version_id;
  SELECT settlement_mode INTO v_mode FROM org WHERE id = j.org_id;
  IF r.amount_micros > 0 THEN
    PERFORM post_transfer('release', substr(j.id, 5), income_account(v_mode), funding_account(j.org_id, v_mode), r.amount_micros, 'pending');
  END IF;
  IF v_captured > 0 THEN
    PERFORM post_transfer('charge', substr(j.id, 5), funding_account(j.org_id, v_mode), income_account(v_mode), v_captured, 'posted');
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
--> statement-breakpoint

-- Names are looked up in this schema alone, whatever the caller's session says.
ALTER FUNCTION reserve_job(jsonb) SET search_path = public, pg_temp;
--> statement-breakpoint
ALTER FUNCTION settle_job(jsonb) SET search_path = public, pg_temp;
--> statement-breakpoint
ALTER FUNCTION grant_credit(text, bigint, text) SET search_path = public, pg_temp;
--> statement-breakpoint
ALTER FUNCTION set_budget(text, text, jsonb) SET search_path = public, pg_temp;
--> statement-breakpoint
ALTER FUNCTION revoke_key(text, text) SET search_path = public, pg_temp;
--> statement-breakpoint
ALTER FUNCTION ledger_txn_balances() SET search_path = public, pg_temp;
--> statement-breakpoint

-- Every statement of these two finds its rows by key. A plan made while a table was nearly empty would read the
-- whole of it for every job, until the next ANALYZE.
ALTER FUNCTION reserve_job(jsonb) SET enable_seqscan = off;
--> statement-breakpoint
ALTER FUNCTION settle_job(jsonb) SET enable_seqscan = off;
