-- Credit that is burned, expires and comes back; what is given back or written off after a charge.
-- Lock order goes on from the balance row of the org: its grants, then nothing.

-- Takes an amount from an org's credit, in the order in which credit is burned, and notes it with the job. The caller
-- holds the org's balance row. Returns what paid and what promotional credit gave; less than asked when less is there.
CREATE OR REPLACE FUNCTION burn_credit(p_org text, p_job text, p_amount bigint, OUT paid bigint, OUT promo bigint)
LANGUAGE plpgsql AS $$
DECLARE
  g credit_grant;
  v_part bigint;
BEGIN
  paid := 0;
  promo := 0;
  FOR g IN SELECT * FROM credit_grant WHERE org_id = p_org AND remaining_micros > 0
            ORDER BY priority, expires_at NULLS LAST, created_at, id FOR UPDATE LOOP
    v_part := least(g.remaining_micros, p_amount - paid - promo);
    EXIT WHEN v_part <= 0;
    UPDATE credit_grant SET remaining_micros = remaining_micros - v_part WHERE id = g.id;
    INSERT INTO credit_burn (grant_id, job_id, amount_micros) VALUES (g.id, p_job, v_part);
    IF g.kind = 'paid' THEN paid := paid + v_part; ELSE promo := promo + v_part; END IF;
  END LOOP;
END $$;

-- Ends one grant that is past its expiry, as far as no open hold counts on it. What was paid for is breakage, what was
-- given goes back to the expense of giving. Returns what expired.
CREATE OR REPLACE FUNCTION expire_grant(p_grant text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  g credit_grant;
  b budget;
  v_mode text;
  v_free bigint;
BEGIN
  SELECT * INTO g FROM credit_grant WHERE id = p_grant;
  SELECT settlement_mode INTO v_mode FROM org WHERE id = g.org_id;
  SELECT * INTO b FROM budget WHERE scope = 'org' AND scope_id = g.org_id AND kind = 'balance' FOR NO KEY UPDATE;
  SELECT * INTO g FROM credit_grant WHERE id = p_grant FOR UPDATE;
  IF g.expires_at IS NULL OR g.expires_at > now() THEN RETURN 0; END IF;
  v_free := CASE WHEN v_mode = 'prepaid'
    THEN least(g.remaining_micros, b.limit_micros - b.spent_micros - b.held_micros) ELSE g.remaining_micros END;
  IF v_free <= 0 THEN RETURN 0; END IF;
  IF v_mode = 'prepaid' THEN UPDATE budget SET limit_micros = limit_micros - v_free WHERE id = b.id; END IF;
  UPDATE credit_grant SET remaining_micros = remaining_micros - v_free,
    expired_at = CASE WHEN remaining_micros = v_free THEN now() END WHERE id = g.id;
  PERFORM post_entries('expire', g.id || ':' || g.remaining_micros, 'posted',
    CASE g.kind WHEN 'paid' THEN ARRAY['prepaid:' || g.org_id, 'breakage']
                ELSE ARRAY['promo:' || g.org_id, 'promo_expense'] END,
    ARRAY[v_free, -v_free]);
  RETURN v_free;
END $$;

-- Gives burned credit of a job back to the grants it came from, the last one first; one that has expired meanwhile
-- can be used for another 90 days. Returns nothing: what was burned is enough, or it is a bug.
CREATE OR REPLACE FUNCTION return_credit(p_job text, p_kind text, p_amount bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  v_left bigint := p_amount;
  v_part bigint;
  r record;
BEGIN
  FOR r IN SELECT u.grant_id, u.amount_micros - u.returned_micros AS burned
             FROM credit_burn u JOIN credit_grant g ON g.id = u.grant_id
            WHERE u.job_id = p_job AND g.kind = p_kind AND u.amount_micros > u.returned_micros
            ORDER BY g.priority DESC, g.expires_at DESC NULLS FIRST, g.created_at DESC, g.id DESC LOOP
    v_part := least(r.burned, v_left);
    EXIT WHEN v_part <= 0;
    UPDATE credit_burn SET returned_micros = returned_micros + v_part WHERE grant_id = r.grant_id AND job_id = p_job;
    UPDATE credit_grant SET remaining_micros = remaining_micros + v_part, expired_at = NULL,
      expires_at = CASE WHEN expires_at IS NOT NULL THEN greatest(expires_at, now() + interval '90 days') END
     WHERE id = r.grant_id;
    v_left := v_left - v_part;
  END LOOP;
  IF v_left > 0 THEN RAISE EXCEPTION 'job % burned less % credit than is returned', p_job, p_kind; END IF;
END $$;

-- Gives back what charged pictures of a job cost: a correction per picture, the money to where it came from, and room
-- in the budgets that the job was counted in. A picture that was refunded before is left out, so a repeat changes
-- nothing. Returns the sum.
CREATE OR REPLACE FUNCTION refund_images(p_org text, p_job text, p_idxs int[], p_refund text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  v_mode text;
  v_net bigint;
  v_promo bigint;
  v_paid bigint;
  v_teams text[];
  v_parts bigint[];
  v_idxs int[];
  r reservation;
BEGIN
  PERFORM 1 FROM job WHERE id = p_job AND org_id = p_org AND finished_at IS NOT NULL FOR UPDATE;
  IF NOT FOUND THEN RETURN NULL; END IF;
  SELECT * INTO r FROM reservation WHERE job_id = p_job;
  SELECT settlement_mode INTO v_mode FROM org WHERE id = p_org;
  PERFORM lock_legs(r.id);
  WITH made AS (
    INSERT INTO usage_correction (id, usage_event_id, reason, source_id, org_id, team_id, key_id, images, list_micros,
                                  discount_micros, net_micros, credit_micros)
    SELECT new_id('cor'), u.id, 'refund', p_refund, u.org_id, usage_team(u), u.key_id, -1, -u.list_micros,
           -u.discount_micros, -u.net_micros, -u.credit_micros
      FROM usage_event u WHERE u.job_id = p_job AND u.idx = ANY (p_idxs)
    ON CONFLICT DO NOTHING RETURNING usage_event_id, net_micros, credit_micros, team_id
  ) SELECT coalesce(-sum(m.net_micros), 0), coalesce(-sum(m.credit_micros), 0), array_agg(m.team_id),
           array_agg(m.net_micros), array_agg(u.idx ORDER BY u.idx)
      INTO v_net, v_promo, v_teams, v_parts, v_idxs FROM made m JOIN usage_event u ON u.id = m.usage_event_id;
  IF v_net = 0 THEN RETURN 0; END IF;
  UPDATE budget SET spent_micros = spent_micros - v_net,
                    limit_micros = CASE WHEN limit_next_micros IS NULL THEN limit_micros
                      ELSE limit_over(limit_next_micros, held_micros + spent_micros - v_net) END,
                    limit_next_micros = limit_wish(limit_next_micros, held_micros + spent_micros - v_net)
   WHERE id IN (SELECT budget_id FROM reservation_leg WHERE reservation_id = r.id);
  v_paid := CASE v_mode WHEN 'prepaid' THEN v_net - v_promo ELSE 0 END;
  PERFORM return_credit(p_job, 'promo', v_promo);
  PERFORM return_credit(p_job, 'paid', v_paid);
  -- One cause may give back one picture today and another tomorrow; each picture is in one of these only.
  PERFORM post_entries('refund', concat_ws(':', p_refund, p_job, array_to_string(v_idxs, '-')), 'posted',
    CASE v_mode WHEN 'internal' THEN ARRAY['refunds'] || ARRAY(SELECT 'team_cost:' || unnest(v_teams))
                ELSE ARRAY['refunds', 'promo:' || p_org, funding_account(p_org, NULL, v_mode)] END,
    CASE v_mode WHEN 'internal' THEN ARRAY[v_net] || v_parts ELSE ARRAY[v_net, -v_promo, v_promo - v_net] END);
  RETURN v_net;
END $$;

-- Takes paid credit that no hold counts on off an org's balance and out of its grants, that of one source first.
-- The caller holds the balance row. Returns what could be taken.
CREATE OR REPLACE FUNCTION take_paid_credit(p_org text, p_amount bigint, p_source text) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
  v_taken bigint;
  v_left bigint;
  g record;
BEGIN
  -- What was given was not paid for, and pays nothing back.
  SELECT greatest(0, least(p_amount, limit_micros - held_micros - spent_micros,
           (SELECT coalesce(sum(remaining_micros), 0)::bigint FROM credit_grant WHERE org_id = p_org AND kind = 'paid')))
    INTO v_taken FROM budget WHERE scope = 'org' AND scope_id = p_org AND kind = 'balance';
  UPDATE budget SET limit_micros = limit_micros - v_taken
   WHERE scope = 'org' AND scope_id = p_org AND kind = 'balance' AND v_taken > 0;
  v_left := v_taken;
  FOR g IN SELECT id, remaining_micros FROM credit_grant
      WHERE org_id = p_org AND kind = 'paid' AND remaining_micros > 0
      ORDER BY source_id = p_source DESC, priority DESC, created_at DESC FOR UPDATE LOOP
    EXIT WHEN v_left = 0;
    UPDATE credit_grant SET remaining_micros = remaining_micros - least(remaining_micros, v_left),
                            withdrawn_micros = withdrawn_micros + least(remaining_micros, v_left) WHERE id = g.id;
    v_left := v_left - least(g.remaining_micros, v_left);
  END LOOP;
  RETURN v_taken;
END $$;

-- What an org owes, in micro-USD: what is posted on its receivable account.
CREATE OR REPLACE FUNCTION owed_micros(p_org text) RETURNS bigint LANGUAGE sql STABLE AS $$
  SELECT coalesce(sum(amount_micros), 0)::bigint FROM ledger_entry
   WHERE account_id = 'receivable:' || p_org AND phase = 'posted'
$$;

-- Pays what a prepaid org owes from its free paid credit. The caller holds the balance row.
CREATE OR REPLACE FUNCTION pay_debt(p_org text, p_source text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  v_owed constant bigint := owed_micros(p_org);
  v_taken bigint;
BEGIN
  IF v_owed <= 0 THEN RETURN; END IF;
  v_taken := take_paid_credit(p_org, v_owed, p_source);
  IF v_taken > 0 THEN
    PERFORM post_transfer('debt_paid', p_source, 'prepaid:' || p_org, 'receivable:' || p_org, v_taken, 'posted');
    PERFORM refresh_freeze(p_org);
  END IF;
END $$;

-- Gives up what an org owes and will not pay: never more than it owes, once per source. A prepaid org can owe for a
-- payment that went back after it was spent.
CREATE OR REPLACE FUNCTION write_off(p_org text, p_amount bigint, p_source text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  PERFORM 1 FROM budget WHERE scope = 'org' AND scope_id = p_org AND kind = 'balance' FOR NO KEY UPDATE;
  IF EXISTS (SELECT 1 FROM ledger_txn WHERE kind = 'write_off' AND source_id = p_source) THEN RETURN false; END IF;
  IF p_amount <= 0 OR p_amount > owed_micros(p_org) THEN
    RAISE EXCEPTION 'org % owes % micro-USD; % cannot be written off', p_org, owed_micros(p_org), p_amount
      USING ERRCODE = 'GP409';
  END IF;
  PERFORM post_transfer('write_off', p_source, 'write_off', 'receivable:' || p_org, p_amount, 'posted');
  PERFORM refresh_freeze(p_org);
  RETURN true;
END $$;
