-- Balanced transactions and credit. What the accounts mean stands in billing/LEDGER.md.

CREATE OR REPLACE FUNCTION ledger_txn_balances() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (
    SELECT 1 FROM ledger_entry WHERE txn_id = NEW.txn_id GROUP BY phase HAVING sum(amount_micros) <> 0
  ) THEN
    RAISE EXCEPTION 'ledger transaction % does not sum to zero', NEW.txn_id;
  END IF;
  RETURN NULL;
END $$;

-- Deferred, so that the entries of one transaction may be written one after the other.
DROP TRIGGER IF EXISTS ledger_txn_balances ON ledger_entry;
CREATE CONSTRAINT TRIGGER ledger_txn_balances AFTER INSERT ON ledger_entry
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ledger_txn_balances();

-- One balanced transaction of two entries. (kind, source) is unique: a repeat posts nothing and says so.
CREATE OR REPLACE FUNCTION post_transfer(
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

-- Where an org's charges go: what it has paid ahead, what it owes, or what its teams cost.
CREATE OR REPLACE FUNCTION funding_account(p_org text, p_team text, p_mode text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE p_mode WHEN 'prepaid' THEN 'prepaid:' || p_org WHEN 'postpaid' THEN 'receivable:' || p_org
                     ELSE 'team_cost:' || p_team END
$$;

CREATE OR REPLACE FUNCTION income_account(p_mode text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE p_mode WHEN 'internal' THEN 'recovery' ELSE 'revenue' END
$$;

-- A balanced transaction of any number of entries; those of 0 are left out. A repeat posts nothing and says so.
CREATE OR REPLACE FUNCTION post_entries(p_kind text, p_source text, p_phase text, p_accounts text[], p_amounts bigint[])
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  v_txn text := 'led_' || p_kind || '_' || p_source;
BEGIN
  INSERT INTO ledger_txn (id, kind, source_id) VALUES (v_txn, p_kind, p_source) ON CONFLICT DO NOTHING;
  IF NOT FOUND THEN RETURN false; END IF;
  INSERT INTO ledger_entry (txn_id, account_id, amount_micros, phase)
  SELECT v_txn, account, amount, p_phase FROM unnest(p_accounts, p_amounts) AS x(account, amount) WHERE amount <> 0;
  RETURN true;
END $$;

-- Credit of an org, once per source. Returns false when that source was granted before. A prepaid org has paid and
-- promotional credit and can spend no more; a postpaid one can have promotional credit, which lowers what it owes.
-- What a prepaid org owes for a payment that went back is paid from new paid credit first.
-- SQLSTATE GP409 says in words why nothing was granted.
CREATE OR REPLACE FUNCTION grant_credit(
  p_org text, p_amount bigint, p_source text, p_kind text DEFAULT 'paid', p_priority int DEFAULT 50,
  p_expires timestamptz DEFAULT NULL
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  v_mode text;
BEGIN
  IF p_amount <= 0 THEN
    RAISE EXCEPTION 'credit must be positive, got %', p_amount USING ERRCODE = 'GP409';
  END IF;
  IF p_expires <= now() THEN
    RAISE EXCEPTION 'credit cannot have expired when it is granted' USING ERRCODE = 'GP409';
  END IF;
  SELECT settlement_mode INTO v_mode FROM org WHERE id = p_org;
  IF NOT FOUND THEN RAISE EXCEPTION 'there is no org %', p_org USING ERRCODE = 'GP409'; END IF;
  IF v_mode = 'internal' OR (v_mode = 'postpaid' AND p_kind = 'paid') THEN
    RAISE EXCEPTION 'org % is %; it has no % credit', p_org, v_mode, p_kind USING ERRCODE = 'GP409';
  END IF;
  INSERT INTO credit_grant (id, org_id, kind, amount_micros, remaining_micros, priority, source_id, expires_at)
  VALUES (new_id('crg'), p_org, p_kind, p_amount, p_amount, p_priority, p_source, p_expires)
  ON CONFLICT (source_id) DO NOTHING;
  IF NOT FOUND THEN
    IF NOT EXISTS (SELECT 1 FROM credit_grant WHERE org_id = p_org AND source_id = p_source AND kind = p_kind
                    AND amount_micros = p_amount) THEN
      RAISE EXCEPTION 'source % was granted before, to another org or with another amount', p_source
        USING ERRCODE = 'GP409';
    END IF;
    RETURN false;
  END IF;
  PERFORM post_entries('credit', p_source, 'posted',
    CASE p_kind WHEN 'paid' THEN ARRAY['clearing', 'prepaid:' || p_org]
                ELSE ARRAY['promo_expense', 'promo:' || p_org] END, ARRAY[p_amount, -p_amount]);
  IF v_mode = 'prepaid' THEN
    UPDATE budget SET limit_micros = coalesce(limit_micros, 0) + p_amount
      WHERE scope = 'org' AND scope_id = p_org AND kind = 'balance';
    IF NOT FOUND THEN RAISE EXCEPTION 'org % has no balance row', p_org; END IF;
    IF p_kind = 'paid' THEN PERFORM pay_debt(p_org, p_source); END IF;
  END IF;
  RETURN true;
END $$;

ALTER FUNCTION grant_credit(text, bigint, text, text, int, timestamptz) SET search_path = public, pg_temp;

ALTER FUNCTION ledger_txn_balances() SET search_path = public, pg_temp;
