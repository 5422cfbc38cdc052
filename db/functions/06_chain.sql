-- An org's own ledger as a chain of hashes. Only what is surely complete is chained: entries of transactions below
-- which none is still open, so that no line can come to stand before one that was shown already.
CREATE OR REPLACE FUNCTION chain_ledger(p_org text, p_limit int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
  v_name constant text := 'chain:' || p_org;
  v_until constant xid8 := pg_snapshot_xmin(pg_current_snapshot());
  -- A row that is seen though its number is not given out yet came from another server, by a restore.
  v_next constant xid8 := pg_snapshot_xmax(pg_current_snapshot());
  v_from xid8;
  v_reached xid8;
  v_last ledger_line;
  v_row record;
  v_added int := 0;
BEGIN
  -- One at a time per org; a transaction's lock on the watermark's row is not there before its first line.
  PERFORM pg_advisory_xact_lock(hashtextextended(v_name, 0));
  SELECT xid INTO v_from FROM ledger_watermark WHERE projection = v_name AND xid < v_next;
  SELECT * INTO v_last FROM ledger_line WHERE org_id = p_org ORDER BY seq DESC LIMIT 1;
  IF NOT FOUND THEN
    v_last.seq := 0;
    v_last.hash := repeat('0', 64);
  END IF;
  FOR v_row IN
    SELECT e.id, e.xid, e.phase, e.amount_micros, t.kind, t.source_id, a.type,
           floor(extract(epoch FROM t.occurred_at) * 1000)::bigint AS occurred_ms
      FROM ledger_account a
      JOIN ledger_entry e ON e.account_id = a.id
      JOIN ledger_txn t ON t.id = e.txn_id
     WHERE a.org_id = p_org AND (e.xid < v_until OR e.xid >= v_next) AND (v_from IS NULL OR e.xid >= v_from)
       AND NOT EXISTS (SELECT 1 FROM ledger_line l WHERE l.entry_id = e.id)
     ORDER BY e.xid, e.id LIMIT p_limit
  LOOP
    v_last.seq := v_last.seq + 1;
    v_last.hash := encode(sha256(convert_to(concat_ws('|', v_last.hash, v_last.seq, v_row.occurred_ms, v_row.kind,
      v_row.source_id, v_row.type, v_row.phase, v_row.amount_micros), 'UTF8')), 'hex');
    INSERT INTO ledger_line (org_id, seq, entry_id, hash) VALUES (p_org, v_last.seq, v_row.id, v_last.hash);
    v_reached := least(v_row.xid, v_until);
    v_added := v_added + 1;
  END LOOP;
  IF v_added > 0 THEN
    INSERT INTO ledger_watermark (projection, xid) VALUES (v_name, v_reached)
      ON CONFLICT (projection) DO UPDATE SET xid = excluded.xid;
  END IF;
  RETURN v_added;
END $$;

ALTER FUNCTION chain_ledger(text, int) SET search_path = public, pg_temp;

CREATE OR REPLACE TRIGGER ledger_line_append_only BEFORE UPDATE OR DELETE ON ledger_line
  FOR EACH ROW EXECUTE FUNCTION refuse_change();

CREATE OR REPLACE TRIGGER ledger_line_keep BEFORE TRUNCATE ON ledger_line EXECUTE FUNCTION refuse_change();
