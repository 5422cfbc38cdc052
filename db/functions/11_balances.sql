-- Balances of ledger accounts as a projection: sums of all entries up to a watermark, folded behind the work.

-- Adds the next entries to the balances, at most as many ids as the limit says, each once. Returns how many there were.
--
-- Ids are given out in order and committed in any. So the highest id that is seen is noted together with the number of
-- this transaction, taken after the look: whoever was given a lower id had its own number by then, as no entry is the
-- first row that its transaction writes or locks. When all numbers up to the noted one have ended, no lower id can still come.
-- One folds at a time; others leave at once.
CREATE OR REPLACE FUNCTION fold_balances(p_limit int) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  v_last constant bigint := coalesce((SELECT max(id) FROM ledger_entry), 0);
  w ledger_watermark;
  v_to bigint;
  v_folded bigint := 0;
BEGIN
  IF pg_current_xact_id_if_assigned() IS NOT NULL THEN
    RAISE EXCEPTION 'fold_balances needs a transaction of its own';
  END IF;
  IF NOT pg_try_advisory_xact_lock(hashtextextended('fold_balances', 0)) THEN RETURN 0; END IF;
  SELECT * INTO w FROM ledger_watermark WHERE projection = 'balances';
  IF w.complete_to > w.folded_to AND w.xid < pg_snapshot_xmin(pg_current_snapshot()) THEN
    v_to := least(w.complete_to, w.folded_to + p_limit);
    WITH sums AS (
      INSERT INTO ledger_balance AS b (account_id, pending_micros, posted_micros)
      SELECT account_id, coalesce(sum(amount_micros) FILTER (WHERE phase = 'pending'), 0),
             coalesce(sum(amount_micros) FILTER (WHERE phase = 'posted'), 0)
        FROM ledger_entry WHERE id > w.folded_to AND id <= v_to GROUP BY account_id
      ON CONFLICT (account_id) DO UPDATE SET pending_micros = b.pending_micros + excluded.pending_micros,
                                             posted_micros = b.posted_micros + excluded.posted_micros
    ) SELECT count(*) INTO v_folded FROM ledger_entry WHERE id > w.folded_to AND id <= v_to;
    w.folded_to := v_to;
    UPDATE ledger_watermark SET folded_to = v_to WHERE projection = 'balances';
  END IF;
  -- A number that this server has not given out yet came with a restore; it says nothing here.
  IF w.projection IS NULL OR (v_last > w.folded_to AND
       (w.folded_to = w.complete_to OR w.xid >= pg_snapshot_xmax(pg_current_snapshot()))) THEN
    INSERT INTO ledger_watermark (projection, xid, folded_to, complete_to)
    VALUES ('balances', pg_current_xact_id(), 0, v_last)
    ON CONFLICT (projection) DO UPDATE SET xid = excluded.xid, complete_to = excluded.complete_to;
  END IF;
  RETURN v_folded;
END $$;

ALTER FUNCTION fold_balances(int) SET search_path = public, pg_temp;
