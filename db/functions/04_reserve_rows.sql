-- What accepting jobs writes beside the budget rows.

-- The rows of accepted calls, except those that others share. Returns the ids of their messages, in the same order.
CREATE OR REPLACE FUNCTION write_reservations(
  p_calls jsonb[], p_jobs jsonb[], p_ids text[], p_amounts bigint[], p_modes text[]
) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
  v_written int;
  v_outbox bigint[];
BEGIN
  INSERT INTO job (id, org_id, team_id, key_id, idempotency_key, request_hash, dialect, model, prompt, width,
                   height, n, quality, priority, seed, steps, guidance_scale, format, caller_fields, webhook_url, input_images, text_terms, state, deadline_at)
  SELECT j->>'id', j->>'org_id', j->>'team_id', j->>'key_id', j->>'idempotency_key', j->>'request_hash',
         j->>'dialect', j->>'model', j->>'prompt', (j->>'width')::int, (j->>'height')::int, (j->>'n')::int,
         coalesce(j->>'quality', 'hd'), coalesce(j->>'priority', 'standard'), (j->>'seed')::bigint, (j->>'steps')::int,
         (j->>'guidance_scale')::real, j->>'format', coalesce(j->'caller_fields', '{}'), j->>'webhook_url', j->'input_images', j->'text_terms', 'accepted',
         now() + make_interval(secs => (j->>'deadline_seconds')::double precision)
    FROM unnest(p_jobs) AS j
  ON CONFLICT DO NOTHING;
  GET DIAGNOSTICS v_written = ROW_COUNT;
  IF v_written <> cardinality(p_ids) THEN
    IF EXISTS (SELECT 1 FROM job e JOIN unnest(p_jobs) AS j ON e.id = j->>'id' AND e.key_id <> j->>'key_id') THEN
      RAISE EXCEPTION 'the id of a job is taken: one of %', p_ids;
    END IF;
    -- An equal call was accepted since these were looked at; a look that begins now sees it.
    RAISE EXCEPTION 'a job was made meanwhile: one of %', p_ids USING ERRCODE = 'serialization_failure';
  END IF;

  INSERT INTO reservation (id, job_id, state, unit_micros, amount_micros, price_version_id, list_version_id,
                           org_price_id, expires_at)
  SELECT 'res_' || substr(x.id, 5), x.id, 'held', (c->>'unit_micros')::bigint, amount,
         c->>'price_version_id', coalesce(c->>'list_version_id', c->>'price_version_id'), c->>'org_price_id',
         now() + make_interval(secs => (j->>'deadline_seconds')::double precision)
    FROM unnest(p_calls, p_jobs, p_ids, p_amounts) AS x(c, j, id, amount)
   WHERE (SELECT id FROM price_version WHERE id = c->>'price_version_id') IS NOT NULL
     AND (c->>'list_version_id' IS NULL OR c->>'list_version_id' = c->>'price_version_id'
          OR (SELECT id FROM price_version WHERE id = c->>'list_version_id') IS NOT NULL)
     AND (c->>'org_price_id' IS NULL OR (SELECT id FROM org_price WHERE id = c->>'org_price_id') IS NOT NULL);
  GET DIAGNOSTICS v_written = ROW_COUNT;
  IF v_written <> cardinality(p_ids) THEN RAISE EXCEPTION 'a price is not there, of one of %', p_ids; END IF;

  INSERT INTO ledger_txn (id, kind, source_id)
  SELECT 'led_hold_' || substr(x.id, 5), 'hold', substr(x.id, 5) FROM unnest(p_ids, p_amounts) AS x(id, amount) WHERE amount > 0;
  INSERT INTO ledger_entry (txn_id, account_id, amount_micros, phase)
  SELECT 'led_hold_' || substr(x.id, 5), CASE sign WHEN 1 THEN funding_account(j->>'org_id', j->>'team_id', mode)
                                                   ELSE income_account(mode) END, sign * amount, 'pending'
    FROM unnest(p_ids, p_jobs, p_amounts, p_modes) AS x(id, j, amount, mode), unnest(ARRAY[1, -1]) AS sign WHERE amount > 0;

  WITH staged AS (
    INSERT INTO outbox (topic, dedupe_key, payload)
    SELECT 'job.dispatch', x.id || ':0', jsonb_build_object('job_id', x.id, 'org_id', j->>'org_id')
      FROM unnest(p_ids, p_jobs) AS x(id, j)
    RETURNING id
  ) SELECT array_agg(id ORDER BY id) INTO v_outbox FROM staged;
  RETURN v_outbox;
END $$;
