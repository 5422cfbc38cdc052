-- Limits of key, team and org, and the holds on them.

DROP FUNCTION IF EXISTS ensure_period(budget, text, timestamptz, bigint);

-- Why a budget row cannot take an amount more, as the caller sees it; null when it can.
CREATE OR REPLACE FUNCTION budget_refusal(b budget, p_amount bigint) RETURNS jsonb LANGUAGE sql STABLE AS $$
  SELECT CASE
    WHEN b.held_micros + b.spent_micros + p_amount > b.limit_micros THEN jsonb_build_object(
      'ok', false,
      'reason', CASE b.kind WHEN 'balance' THEN 'insufficient_credit' ELSE 'budget_exceeded' END,
      'scope', b.scope, 'period', nullif(b.kind, 'balance'), 'limit_micros', b.limit_micros::text,
      'spent_micros', b.spent_micros::text, 'held_micros', b.held_micros::text, 'amount_micros', p_amount::text,
      'resets_at', b.period_end)
    WHEN b.inflight >= b.max_inflight THEN jsonb_build_object(
      'ok', false, 'reason', 'too_many_inflight', 'scope', b.scope,
      'inflight', b.inflight, 'max_inflight', b.max_inflight)
  END
$$;

-- What is set for a level's days or months; null when they are not limited.
CREATE OR REPLACE FUNCTION period_limit(b budget, p_kind text) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE p_kind WHEN 'day' THEN b.day_limit_micros ELSE b.month_limit_micros END
$$;

-- The row of a level's day or month; made when its first job comes. Only under the lock of the balance row.
CREATE OR REPLACE FUNCTION ensure_period(b budget, p_kind text, p_start timestamptz, p_limit bigint) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
  v_id text;
BEGIN
  INSERT INTO budget (id, scope, scope_id, kind, period_start, period_end, limit_micros, soft_bp)
  VALUES (new_id('bud'), b.scope, b.scope_id, p_kind, p_start, period_end(p_kind, p_start), p_limit, b.soft_bp)
  ON CONFLICT (scope, scope_id, kind, period_start) DO NOTHING RETURNING id INTO v_id;
  RETURN v_id;
END $$;

-- The row of a level's day or month under way. Its first job makes the row: until then it has no id, the limit stands
-- on the balance row and nothing counts against it. Null when the level does not limit such periods.
CREATE OR REPLACE FUNCTION period_row(b budget, p_kind text) RETURNS budget LANGUAGE plpgsql STABLE AS $$
DECLARE
  v_row budget;
BEGIN
  IF period_limit(b, p_kind) IS NULL THEN RETURN NULL; END IF;
  SELECT * INTO v_row FROM budget
   WHERE scope = b.scope AND scope_id = b.scope_id AND kind = p_kind AND period_start = period_start(p_kind);
  IF FOUND THEN RETURN v_row; END IF;
  v_row := b;
  v_row.id := NULL;
  v_row.kind := p_kind;
  v_row.period_start := period_start(p_kind);
  v_row.period_end := period_end(p_kind, v_row.period_start);
  v_row.limit_micros := period_limit(b, p_kind);
  v_row.held_micros := 0;
  v_row.spent_micros := 0;
  v_row.max_inflight := NULL;
  RETURN v_row;
END $$;

-- The balance rows of some levels, in that order, and their days and months under way after them; `months` and `days`
-- say where. With `p_lock` the balance rows are held until the transaction ends, and with them all the others.
CREATE OR REPLACE FUNCTION read_levels(
  p_scopes text[], p_ids text[], p_lock boolean, OUT budgets budget[], OUT months int[], OUT days int[]
) LANGUAGE plpgsql AS $$
DECLARE
  b budget;
BEGIN
  -- One row after the other, in this order, whatever a planner thinks of it.
  IF p_lock THEN
    SELECT array_agg(l.r) INTO budgets FROM unnest(p_scopes, p_ids) AS x(level, owner), LATERAL (
      SELECT r FROM budget r WHERE scope = level AND scope_id = owner AND kind = 'balance' AND period_start = 'epoch'
         FOR NO KEY UPDATE) AS l;
  ELSE
    SELECT array_agg(l.r) INTO budgets FROM unnest(p_scopes, p_ids) AS x(level, owner), LATERAL (
      SELECT r FROM budget r WHERE scope = level AND scope_id = owner AND kind = 'balance' AND period_start = 'epoch'
      OFFSET 0) AS l;
  END IF;
  IF cardinality(budgets) IS DISTINCT FROM cardinality(p_ids) THEN RAISE EXCEPTION 'one of % has no balance row', p_ids; END IF;
  FOR l IN 1..cardinality(p_ids) LOOP
    b := budgets[l];
    IF b.month_limit_micros IS NOT NULL THEN
      budgets := budgets || period_row(b, 'month');
      months[l] := cardinality(budgets);
    END IF;
    IF b.day_limit_micros IS NOT NULL THEN
      budgets := budgets || period_row(b, 'day');
      days[l] := cardinality(budgets);
    END IF;
  END LOOP;
END $$;

-- The limit of a row that is to be limited to p_wish: never below what is committed.
CREATE OR REPLACE FUNCTION limit_over(p_wish bigint, p_committed bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE WHEN p_wish IS NOT NULL THEN greatest(p_wish, p_committed) END
$$;

-- What such a row still has to come down to; null when it is there.
CREATE OR REPLACE FUNCTION limit_wish(p_wish bigint, p_committed bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE WHEN p_wish < p_committed THEN p_wish END
$$;

-- What was accepted since the start of a day or month and does not lie on its row yet gets a leg on it, with what it
-- holds and what it has spent less refunds. Only under the lock of the balance row.
CREATE OR REPLACE FUNCTION count_period(b budget, p_kind text, p_start timestamptz) RETURNS void LANGUAGE sql AS $$
  WITH period AS (
    SELECT id, period_end FROM budget
     WHERE scope = b.scope AND scope_id = b.scope_id AND kind = p_kind AND period_start = p_start
  ), missing AS (
    SELECT period.id AS period_id, r.id, r.job_id, r.state, r.amount_micros, r.captured_micros
      FROM period, job j JOIN reservation r ON r.job_id = j.id
     WHERE j.org_id = CASE b.scope WHEN 'org' THEN b.scope_id
             WHEN 'team' THEN (SELECT org_id FROM team WHERE id = b.scope_id)
             ELSE (SELECT org_id FROM api_key WHERE id = b.scope_id) END
       AND r.created_at >= p_start AND r.created_at < period.period_end
       AND CASE b.scope WHEN 'key' THEN j.key_id WHEN 'team' THEN j.team_id ELSE j.org_id END = b.scope_id
       AND NOT EXISTS (SELECT 1 FROM reservation_leg l WHERE l.reservation_id = r.id AND l.budget_id = period.id)
  ), legs AS (
    INSERT INTO reservation_leg (reservation_id, budget_id) SELECT id, period_id FROM missing
  ), sums AS (
    SELECT period_id, coalesce(sum(amount_micros) FILTER (WHERE state = 'held'), 0) AS held,
           sum(captured_micros) + coalesce(sum((
             SELECT sum(c.net_micros) FROM usage_event u JOIN usage_correction c ON c.usage_event_id = u.id
              WHERE u.job_id = missing.job_id AND c.reason = 'refund')), 0) AS spent
      FROM missing GROUP BY period_id
  )
  UPDATE budget SET held_micros = held_micros + sums.held, spent_micros = spent_micros + sums.spent
    FROM sums WHERE budget.id = sums.period_id
$$;

-- A limit of days or months binds the one under way from now on. One that is set in its midst counts all that was
-- accepted since its start. The period is that of the clock, under the lock of the balance row, which the caller
-- holds: its transaction may have begun before the midnight at which jobs of the next day took the row. A period that
-- has ended is left as it was; one that others have begun is limited with this one.
CREATE OR REPLACE FUNCTION set_period_limit(b budget, p_kind text, p_limit bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  v_start constant timestamptz := period_of(p_kind, clock_timestamp());
BEGIN
  IF p_limit IS NOT NULL AND period_limit(b, p_kind) IS NULL THEN
    PERFORM ensure_period(b, p_kind, v_start, NULL);
    PERFORM count_period(b, p_kind, v_start);
  END IF;
  UPDATE budget SET limit_micros = limit_over(p_limit, held_micros + spent_micros),
                    limit_next_micros = limit_wish(p_limit, held_micros + spent_micros)
   WHERE scope = b.scope AND scope_id = b.scope_id AND kind = p_kind AND period_start >= v_start;
END $$;

-- Thresholds of a level, of its total and of its days and months; those of periods that have ended stay as they were.
CREATE OR REPLACE FUNCTION set_thresholds(b budget, p_soft int[]) RETURNS void LANGUAGE sql AS $$
  UPDATE budget SET soft_bp = p_soft
   WHERE scope = b.scope AND scope_id = b.scope_id
     AND (kind = 'balance' OR period_start >= period_of(kind, clock_timestamp()))
$$;

-- Changes the limits that are named in the document; a null takes one away. Says what came of it.
CREATE OR REPLACE FUNCTION set_budget(p_scope text, p_scope_id text, p_changes jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  v_soft constant int[] := ARRAY(SELECT DISTINCT bp::int FROM jsonb_array_elements_text(
    CASE jsonb_typeof(p_changes->'soft_bp') WHEN 'array' THEN p_changes->'soft_bp' ELSE '[]' END) AS x(bp) ORDER BY 1);
  v_limit constant bigint := p_changes->>'limit_micros';
  b budget;
BEGIN
  SELECT * INTO b FROM budget
   WHERE scope = p_scope AND scope_id = p_scope_id AND kind = 'balance' FOR NO KEY UPDATE;
  IF NOT FOUND THEN RETURN 'not_found'; END IF;
  IF least(v_limit, (p_changes->>'day_limit_micros')::bigint, (p_changes->>'month_limit_micros')::bigint,
           (p_changes->>'max_inflight')::bigint) < 0 THEN
    RETURN 'negative_limit';
  END IF;
  IF NOT (0 < ALL (v_soft) AND 10000 >= ALL (v_soft)) THEN RETURN 'invalid_threshold'; END IF;
  -- What was paid ahead is in the ledger; a limit changed beside it would part the two.
  IF p_changes ? 'limit_micros' AND p_scope = 'org'
     AND EXISTS (SELECT 1 FROM org WHERE id = p_scope_id AND settlement_mode = 'prepaid') THEN
    RETURN 'credit_is_granted';
  END IF;
  -- Jobs under way are not stopped, and their number has nowhere to wait for them as money has.
  IF (p_changes->>'max_inflight')::int < b.inflight THEN RETURN 'below_committed'; END IF;
  IF p_changes ? 'soft_bp' THEN
    PERFORM set_thresholds(b, v_soft);
    b.soft_bp := v_soft;
  END IF;
  IF p_changes ? 'day_limit_micros' THEN PERFORM set_period_limit(b, 'day', (p_changes->>'day_limit_micros')::bigint); END IF;
  IF p_changes ? 'month_limit_micros' THEN PERFORM set_period_limit(b, 'month', (p_changes->>'month_limit_micros')::bigint); END IF;
  IF p_changes ? 'limit_micros' THEN
    UPDATE budget SET limit_micros = limit_over(v_limit, held_micros + spent_micros),
                      limit_next_micros = limit_wish(v_limit, held_micros + spent_micros) WHERE id = b.id;
  END IF;
  UPDATE budget SET
    day_limit_micros = CASE WHEN p_changes ? 'day_limit_micros'
      THEN (p_changes->>'day_limit_micros')::bigint ELSE day_limit_micros END,
    month_limit_micros = CASE WHEN p_changes ? 'month_limit_micros'
      THEN (p_changes->>'month_limit_micros')::bigint ELSE month_limit_micros END,
    max_inflight = CASE WHEN p_changes ? 'max_inflight'
      THEN (p_changes->>'max_inflight')::int ELSE max_inflight END
   WHERE id = b.id;
  RETURN 'changed';
END $$;

-- Tells an org of the thresholds that the spending on these budget rows has passed, each once for a row: an event for
-- every endpoint that wants it. Measured against the limit that is meant, not the one that is still on its way down.
-- What a prepaid org was granted is no budget: the share of all that was ever paid says nothing of what is left.
CREATE OR REPLACE FUNCTION alert_thresholds(p_org text, p_budgets text[]) RETURNS void LANGUAGE sql AS $$
  WITH crossed AS (
    INSERT INTO budget_alert (budget_id, bp)
    SELECT b.id, x.bp FROM budget b CROSS JOIN unnest(b.soft_bp) AS x(bp)
     WHERE b.id = ANY (p_budgets) AND b.spent_micros > 0
       AND b.spent_micros::numeric * 10000 >= coalesce(b.limit_next_micros, b.limit_micros)::numeric * x.bp
       AND NOT (b.scope = 'org' AND b.kind = 'balance'
                AND EXISTS (SELECT 1 FROM org WHERE id = p_org AND settlement_mode = 'prepaid'))
    ON CONFLICT DO NOTHING RETURNING budget_id, bp
  ), event AS (
    INSERT INTO webhook_event (id, org_id, type, subject_id, payload)
    SELECT new_id('evt'), p_org, 'budget.threshold_reached', b.id || ':' || c.bp, jsonb_build_object(
      'type', 'budget.threshold_reached', 'timestamp', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
      'data', jsonb_build_object('scope', b.scope, 'scope_id', b.scope_id,
        'period', CASE b.kind WHEN 'balance' THEN 'total' ELSE b.kind END, 'threshold_bp', c.bp,
        'currency', 'USD',
        'limit', (coalesce(b.limit_next_micros, b.limit_micros) / 1000000::numeric)::numeric(26, 6)::text,
        'spent', (b.spent_micros / 1000000::numeric)::numeric(26, 6)::text,
        'resets_at', to_char(b.period_end AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')))
      FROM crossed c JOIN budget b ON b.id = c.budget_id
    RETURNING id, type
  )
  INSERT INTO webhook_delivery (id, event_id, org_id, endpoint_id, url, state)
  SELECT new_id('whd'), event.id, p_org, e.id, e.url, 'pending'
    FROM event, endpoints_for(p_org, event.type) AS e
$$;

ALTER FUNCTION set_budget(text, text, jsonb) SET search_path = public, pg_temp;

DROP FUNCTION IF EXISTS ensure_month(text, text, timestamptz, bigint), set_month_limit(budget, bigint), month_refusal(budget, bigint),
  hold_on_level(text, text, bigint), hold_on_period(budget, text, bigint), period_refusal(budget, text, bigint),
  hold_on_budget(text, text, text, timestamptz, bigint);
