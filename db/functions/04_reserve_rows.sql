-- What accepting jobs writes beside the budget rows.

-- The jobs themselves, and how many there are: fewer than were given where one has an id or an order that is taken.
CREATE OR REPLACE FUNCTION insert_jobs(p_jobs jsonb[]) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
  v_written int;
BEGIN
  INSERT INTO job (id, org_id, team_id, key_id, idempotency_key, request_hash, dialect, model, prompt, width,
                   height, n, quality, priority, seed, steps, guidance_scale, format, caller_fields, webhook_url, request_id,
                   trace_parent,
                   input_images, text_terms, state, deadline_at)
  SELECT j->>'id', j->>'org_id', j->>'team_id', j->>'key_id', j->>'idempotency_key', j->>'request_hash',
         j->>'dialect', j->>'model', j->>'prompt', (j->>'width')::int, (j->>'height')::int, (j->>'n')::int,
         coalesce(j->>'quality', 'hd'), coalesce(j->>'priority', 'standard'), (j->>'seed')::bigint, (j->>'steps')::int,
         (j->>'guidance_scale')::real, j->>'format', coalesce(j->'caller_fields', '{}'), j->>'webhook_url', j->>'request_id', j->>'trace_parent',
         j->'input_images', j->'text_terms', 'accepted',
         now() + make_interval(secs => (j->>'deadline_seconds')::double precision)
    FROM unnest(p_jobs) AS j
  ON CONFLICT DO NOTHING;
  GET DIAGNOSTICS v_written = ROW_COUNT;
  RETURN v_written;
END $$;

-- What goes with one job that was made: reservation, hold on budget rows that the caller has locked, ledger hold and
-- message, whose id is returned.
CREATE OR REPLACE FUNCTION hold_one(c jsonb, p_mode text, p_amount bigint, p_budgets text[]) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  j constant jsonb := c->'job';
  v_id constant text := j->>'id';
  v_suffix constant text := substr(v_id, 5);
  v_reservation constant text := 'res_' || v_suffix;
  v_txn constant text := 'led_hold_' || v_suffix;
  v_price constant text := c->>'price_version_id';
  v_list constant text := coalesce(c->>'list_version_id', v_price);
  v_contract constant text := c->>'org_price_id';
  v_outbox bigint;
BEGIN
  PERFORM 1 FROM price_version WHERE id = v_price;
  IF FOUND AND v_list <> v_price THEN PERFORM 1 FROM price_version WHERE id = v_list; END IF;
  IF FOUND AND v_contract IS NOT NULL THEN PERFORM 1 FROM org_price WHERE id = v_contract; END IF;
  IF NOT FOUND THEN RAISE EXCEPTION 'a price is not there, of %', v_id; END IF;
  INSERT INTO reservation (id, job_id, state, unit_micros, amount_micros, price_version_id, list_version_id, org_price_id, expires_at)
  VALUES (v_reservation, v_id, 'held', (c->>'unit_micros')::bigint, p_amount, v_price, v_list, v_contract,
          now() + make_interval(secs => (j->>'deadline_seconds')::double precision));
  UPDATE budget SET held_micros = held_micros + p_amount, inflight = inflight + CASE kind WHEN 'balance' THEN 1 ELSE 0 END
   WHERE id = ANY (p_budgets);
  INSERT INTO reservation_leg (reservation_id, budget_id) SELECT v_reservation, unnest(p_budgets);
  IF p_amount > 0 THEN
    INSERT INTO ledger_txn (id, kind, source_id) VALUES (v_txn, 'hold', v_suffix);
    INSERT INTO ledger_entry (txn_id, account_id, amount_micros, phase)
    VALUES (v_txn, funding_account(j->>'org_id', j->>'team_id', p_mode), p_amount, 'pending'),
           (v_txn, income_account(p_mode), -p_amount, 'pending');
  END IF;
  INSERT INTO outbox (topic, dedupe_key, payload)
  VALUES ('job.dispatch', v_id || ':0', jsonb_build_object('job_id', v_id, 'org_id', j->>'org_id')) RETURNING id INTO v_outbox;
  RETURN v_outbox;
END $$;

DROP FUNCTION IF EXISTS write_reservations(jsonb[], jsonb[], text[], bigint[], text[]);

-- The rows of accepted calls, with their holds on budget rows that the caller has locked: what each of these rows gets,
-- and which reservation lies on which. Returns the ids of the calls' messages, in the same order.
CREATE OR REPLACE FUNCTION write_reservations(
  p_calls jsonb[], p_jobs jsonb[], p_ids text[], p_amounts bigint[], p_modes text[],
  p_budgets text[], p_held bigint[], p_taken int[], p_leg_reservations text[], p_leg_budgets text[]
) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
  v_written int;
  v_outbox bigint[];
BEGIN
  v_written := insert_jobs(p_jobs);
  IF v_written <> cardinality(p_ids) THEN
    IF EXISTS (SELECT 1 FROM job e JOIN unnest(p_jobs) AS j ON e.id = j->>'id' AND e.key_id <> j->>'key_id') THEN
      RAISE EXCEPTION 'the id of a job is taken: one of %', p_ids;
    END IF;
    -- An equal call was accepted since these were looked at; a look that begins now sees it.
    RAISE EXCEPTION 'a job was made meanwhile: one of %', p_ids USING ERRCODE = 'serialization_failure';
  END IF;

  -- No two of these write to one row.
  WITH x AS (
    SELECT x.c, x.j, x.id, substr(x.id, 5) AS suffix, x.amount, x.mode
      FROM unnest(p_calls, p_jobs, p_ids, p_amounts, p_modes) AS x(c, j, id, amount, mode)
  ), reserved AS (
    INSERT INTO reservation (id, job_id, state, unit_micros, amount_micros, price_version_id, list_version_id,
                             org_price_id, expires_at)
    SELECT 'res_' || suffix, id, 'held', (c->>'unit_micros')::bigint, amount,
           c->>'price_version_id', coalesce(c->>'list_version_id', c->>'price_version_id'), c->>'org_price_id',
           now() + make_interval(secs => (j->>'deadline_seconds')::double precision)
      FROM x
     WHERE (SELECT id FROM price_version WHERE id = c->>'price_version_id') IS NOT NULL
       AND (c->>'list_version_id' IS NULL OR c->>'list_version_id' = c->>'price_version_id'
            OR (SELECT id FROM price_version WHERE id = c->>'list_version_id') IS NOT NULL)
       AND (c->>'org_price_id' IS NULL OR (SELECT id FROM org_price WHERE id = c->>'org_price_id') IS NOT NULL)
    RETURNING 1
  ), held AS (
    UPDATE budget SET held_micros = held_micros + p_held[array_position(p_budgets, id)],
                      inflight = inflight + CASE kind WHEN 'balance' THEN p_taken[array_position(p_budgets, id)] ELSE 0 END
     WHERE id = ANY (p_budgets)
  ), legs AS (
    INSERT INTO reservation_leg (reservation_id, budget_id) SELECT * FROM unnest(p_leg_reservations, p_leg_budgets)
  ), txn AS (
    INSERT INTO ledger_txn (id, kind, source_id) SELECT 'led_hold_' || suffix, 'hold', suffix FROM x WHERE amount > 0
  ), entry AS (
    INSERT INTO ledger_entry (txn_id, account_id, amount_micros, phase)
    SELECT 'led_hold_' || suffix, CASE sign WHEN 1 THEN funding_account(j->>'org_id', j->>'team_id', mode)
                                            ELSE income_account(mode) END, sign * amount, 'pending'
      FROM x, (VALUES (1), (-1)) AS s(sign) WHERE amount > 0
  ), staged AS (
    INSERT INTO outbox (topic, dedupe_key, payload)
    SELECT 'job.dispatch', id || ':0', jsonb_build_object('job_id', id, 'org_id', j->>'org_id') FROM x
    RETURNING id
  ) SELECT array_agg(id ORDER BY id), (SELECT count(*) FROM reserved) INTO v_outbox, v_written FROM staged;
  IF v_written <> cardinality(p_ids) THEN RAISE EXCEPTION 'a price is not there, of one of %', p_ids; END IF;
  RETURN v_outbox;
END $$;
