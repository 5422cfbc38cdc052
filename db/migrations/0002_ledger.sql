-- Accounts, balanced transactions and credit. What they mean stands in billing/LEDGER.md.

INSERT INTO ledger_account (id, org_id, type)
VALUES ('revenue', NULL, 'revenue'), ('recovery', NULL, 'recovery'), ('clearing', NULL, 'clearing');
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

-- Credit of a prepaid org, once per source. Returns false when that source was granted before. Other orgs are
-- charged to other accounts: credit would cap what was unlimited and never be spent. SQLSTATE GP409 says in words
-- why nothing was granted.
CREATE FUNCTION grant_credit(p_org text, p_amount bigint, p_source text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  v_mode text;
BEGIN
  IF p_amount <= 0 THEN
    RAISE EXCEPTION 'credit must be positive, got %', p_amount USING ERRCODE = 'GP409';
  END IF;
  SELECT settlement_mode INTO v_mode FROM org WHERE id = p_org;
  IF NOT FOUND THEN RAISE EXCEPTION 'there is no org %', p_org USING ERRCODE = 'GP409'; END IF;
  IF v_mode <> 'prepaid' THEN
    RAISE EXCEPTION 'org % is %; only a prepaid org has credit', p_org, v_mode USING ERRCODE = 'GP409';
  END IF;
  IF NOT post_transfer('credit', p_source, 'clearing', 'prepaid:' || p_org, p_amount, 'posted') THEN
    IF NOT EXISTS (SELECT 1 FROM ledger_txn t JOIN ledger_entry e ON e.txn_id = t.id
                    WHERE t.kind = 'credit' AND t.source_id = p_source
                      AND e.account_id = 'prepaid:' || p_org AND e.amount_micros = -p_amount) THEN
      RAISE EXCEPTION 'source % was granted before, to another org or with another amount', p_source
        USING ERRCODE = 'GP409';
    END IF;
    RETURN false;
  END IF;
  UPDATE budget SET limit_micros = coalesce(limit_micros, 0) + p_amount
    WHERE scope = 'org' AND scope_id = p_org AND kind = 'balance';
  IF NOT FOUND THEN RAISE EXCEPTION 'org % has no balance row', p_org; END IF;
  RETURN true;
END $$;
--> statement-breakpoint

ALTER FUNCTION grant_credit(text, bigint, text) SET search_path = public, pg_temp;
--> statement-breakpoint

ALTER FUNCTION ledger_txn_balances() SET search_path = public, pg_temp;
