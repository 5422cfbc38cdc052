-- Limits of key, team and org, and the holds on them.

-- Why a budget row cannot take an amount more, as the caller sees it; null when it can.
CREATE OR REPLACE FUNCTION budget_refusal(b budget, p_amount bigint) RETURNS jsonb LANGUAGE sql STABLE AS $$
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

-- A month's row of a level; made when the month's first job comes. Only under the lock of the balance row.
CREATE OR REPLACE FUNCTION ensure_month(p_scope text, p_scope_id text, p_month timestamptz, p_limit bigint) RETURNS void
LANGUAGE sql AS $$
  INSERT INTO budget (id, scope, scope_id, kind, period_start, period_end, limit_micros)
  VALUES (new_id('bud'), p_scope, p_scope_id, 'month', p_month, month_end(p_month), p_limit)
  ON CONFLICT (scope, scope_id, kind, period_start) DO NOTHING
$$;

-- Adds a hold to one row or refuses the whole reservation: the raised error undoes everything before it.
-- Returns a row of nulls when there is no such row.
CREATE OR REPLACE FUNCTION hold_on_budget(p_scope text, p_scope_id text, p_kind text, p_start timestamptz, p_amount bigint)
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

-- Holds on a level's balance row and, where it sets a monthly limit, on this month's. Returns their ids.
CREATE OR REPLACE FUNCTION hold_on_level(p_scope text, p_scope_id text, p_amount bigint) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
  v_balance budget;
  v_month budget;
BEGIN
  v_balance := hold_on_budget(p_scope, p_scope_id, 'balance', 'epoch', p_amount);
  IF v_balance.id IS NULL THEN RAISE EXCEPTION '% % has no balance row', p_scope, p_scope_id; END IF;
  IF v_balance.month_limit_micros IS NULL THEN RETURN ARRAY[v_balance.id]; END IF;
  v_month := hold_on_budget(p_scope, p_scope_id, 'month', month_start(), p_amount);
  IF v_month.id IS NULL THEN
    PERFORM ensure_month(p_scope, p_scope_id, month_start(), v_balance.month_limit_micros);
    v_month := hold_on_budget(p_scope, p_scope_id, 'month', month_start(), p_amount);
  END IF;
  RETURN ARRAY[v_balance.id, v_month.id];
END $$;

-- A monthly limit that is set in mid-month counts the whole month: what was accepted since its start gets a leg.
-- The month is that of the clock, under the lock of the balance row, which the caller holds: its transaction may
-- have begun before the midnight at which jobs of the next month took the row. A month that has ended is left as
-- it was; one that others have begun is limited with this one.
CREATE OR REPLACE FUNCTION set_month_limit(b budget, p_limit bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  v_month constant timestamptz := month_of(clock_timestamp());
  v_org constant text := CASE b.scope WHEN 'org' THEN b.scope_id
    WHEN 'team' THEN (SELECT org_id FROM team WHERE id = b.scope_id)
    ELSE (SELECT org_id FROM api_key WHERE id = b.scope_id) END;
BEGIN
  IF p_limit IS NOT NULL AND b.month_limit_micros IS NULL THEN
    PERFORM ensure_month(b.scope, b.scope_id, v_month, NULL);
    WITH month AS (
      SELECT id FROM budget
       WHERE scope = b.scope AND scope_id = b.scope_id AND kind = 'month' AND period_start = v_month
    ), missing AS (
      SELECT month.id AS month_id, r.id, r.state, r.amount_micros, r.captured_micros
        FROM month, job j JOIN reservation r ON r.job_id = j.id
       WHERE j.org_id = v_org AND r.created_at >= v_month AND r.created_at < month_end(v_month)
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
   WHERE scope = b.scope AND scope_id = b.scope_id AND kind = 'month' AND period_start >= v_month;
END $$;

-- Changes the limits that are named in the document; a null takes one away. Says what came of it.
CREATE OR REPLACE FUNCTION set_budget(p_scope text, p_scope_id text, p_changes jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  b budget;
BEGIN
  SELECT * INTO b FROM budget
   WHERE scope = p_scope AND scope_id = p_scope_id AND kind = 'balance' FOR NO KEY UPDATE;
  IF NOT FOUND THEN RETURN 'not_found'; END IF;
  IF least((p_changes->>'limit_micros')::bigint, (p_changes->>'month_limit_micros')::bigint,
           (p_changes->>'max_inflight')::bigint) < 0 THEN
    RETURN 'negative_limit';
  END IF;
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

ALTER FUNCTION set_budget(text, text, jsonb) SET search_path = public, pg_temp;
