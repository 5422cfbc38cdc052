-- Balanced transactions and credit. What the accounts mean stands in billing/LEDGER.md.

-- Every statement that writes entries writes whole transactions: what it adds to a transaction sums to zero in each
-- phase, and lies in a transaction and on accounts that are there. So each of them sums to zero at every moment, and
-- what is added to an old one later does too. The look-ups take no locks: neither parent is ever removed.
CREATE OR REPLACE FUNCTION ledger_entries_balance() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  v_txn text;
  v_accounts boolean;
BEGIN
  SELECT e.txn_id, sum(e.amount_micros) = 0 INTO v_txn, v_accounts FROM added e GROUP BY e.txn_id, e.phase
  HAVING sum(e.amount_micros) <> 0
      OR bool_or((SELECT a.id FROM public.ledger_account a WHERE a.id = e.account_id) IS NULL)
      OR bool_or((SELECT t.id FROM public.ledger_txn t WHERE t.id = e.txn_id) IS NULL) LIMIT 1;
  IF NOT FOUND THEN RETURN NULL; END IF;
  IF v_accounts THEN RAISE EXCEPTION 'ledger transaction % or an account of it is not there', v_txn; END IF;
  RAISE EXCEPTION 'ledger transaction % does not sum to zero', v_txn;
END $$;

DROP TRIGGER IF EXISTS ledger_txn_balances ON ledger_entry;
DROP FUNCTION IF EXISTS ledger_txn_balances();
CREATE OR REPLACE TRIGGER ledger_entries_balance AFTER INSERT ON ledger_entry
  REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION ledger_entries_balance();

-- A balanced transaction of any number of entries; those of 0 are left out. (kind, source) is unique: a repeat posts
-- nothing and says so.
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

-- One of two entries.
CREATE OR REPLACE FUNCTION post_transfer(
  p_kind text, p_source text, p_debit text, p_credit text, p_amount bigint, p_phase text
) RETURNS boolean LANGUAGE sql AS $$
  SELECT post_entries(p_kind, p_source, p_phase, ARRAY[p_debit, p_credit], ARRAY[p_amount, -p_amount])
$$;

-- Where an org's charges go: what it has paid ahead, what it owes, or what its teams cost.
CREATE OR REPLACE FUNCTION funding_account(p_org text, p_team text, p_mode text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE p_mode WHEN 'prepaid' THEN 'prepaid:' || p_org WHEN 'postpaid' THEN 'receivable:' || p_org
                     ELSE 'team_cost:' || p_team END
$$;

CREATE OR REPLACE FUNCTION income_account(p_mode text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE p_mode WHEN 'internal' THEN 'recovery' ELSE 'revenue' END
$$;

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
