-- The Stripe side: what is told to Stripe about usage, in which order, and what payments do to credit.
-- States and accounts are described in billing/LEDGER.md.

-- What was paid ahead must never be invoiced: a mode that changed after usage would do just that.
CREATE OR REPLACE FUNCTION keep_settlement_mode() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.settlement_mode <> OLD.settlement_mode
     AND EXISTS (SELECT 1 FROM job WHERE org_id = NEW.id) THEN
    RAISE EXCEPTION 'org % has jobs; its settlement mode stays', NEW.id;
  END IF;
  RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER org_settlement_mode_stays BEFORE UPDATE OF settlement_mode ON org
  FOR EACH ROW EXECUTE FUNCTION keep_settlement_mode();

DROP TRIGGER IF EXISTS job_of_frozen_org ON job;
DROP FUNCTION IF EXISTS refuse_frozen_org();

-- Whether the meter is told about an org's usage of that moment.
CREATE OR REPLACE FUNCTION is_metered(p_org text, p_at timestamptz) RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT EXISTS (SELECT 1 FROM stripe_subscription s
    WHERE s.org_id = p_org AND s.metered_from <= p_at AND (s.metered_to IS NULL OR p_at < s.metered_to))
$$;

-- Images of an org in a span and what it owes for them, with every correction of those images, whenever made.
CREATE OR REPLACE FUNCTION usage_of_span(p_org text, p_from timestamptz, p_to timestamptz, p_metered boolean)
RETURNS TABLE (quantity bigint, due_micros bigint) LANGUAGE sql STABLE AS $$
  WITH lines AS (
    SELECT id, net_micros - credit_micros AS due FROM usage_event
     WHERE org_id = p_org AND occurred_at >= p_from AND occurred_at < p_to
       AND is_metered(p_org, occurred_at) = p_metered
  ), facts AS (
    SELECT 1 AS images, due FROM lines
    UNION ALL
    SELECT c.images, c.net_micros - c.credit_micros
      FROM lines l JOIN usage_correction c ON c.usage_event_id = l.id
  )
  SELECT coalesce(sum(images), 0)::bigint, coalesce(sum(due), 0)::bigint FROM facts
$$;

-- What the meter was told about an org's hours of a span, and so what a line of an invoice must say.
CREATE OR REPLACE FUNCTION told_of_span(p_org text, p_from timestamptz, p_to timestamptz)
RETURNS TABLE (quantity bigint, due_micros bigint) LANGUAGE sql STABLE AS $$
  SELECT coalesce(sum(t.quantity), 0)::bigint, coalesce(sum(t.due_micros), 0)::bigint FROM (
    SELECT DISTINCT ON (hour) quantity, due_micros FROM meter_report
     WHERE org_id = p_org AND meter = 'images' AND channel = 'meter' AND hour >= p_from AND hour < p_to
       AND state IN ('accepted', 'confirmed', 'superseded')
     ORDER BY hour, revision DESC) t
$$;

-- Which way a change of an hour still reaches an invoice: by the meter while its draft is open and Stripe takes the
-- timestamp (35 days; a day is kept as margin), else as an item of the next invoice.
CREATE OR REPLACE FUNCTION report_channel(p_org text, p_meter text, p_start timestamptz, p_now timestamptz)
RETURNS text LANGUAGE sql STABLE AS $$
  SELECT CASE WHEN p_meter = 'images' AND p_start > p_now - interval '34 days' AND NOT EXISTS (
      SELECT 1 FROM invoice i WHERE i.org_id = p_org AND i.is_metered AND i.state NOT IN ('draft', 'held')
        AND i.period_start <= p_start AND p_start < i.period_end)
    THEN 'meter' ELSE 'invoice_item' END
$$;

-- Writes the next revision of a window if what Stripe was told is not what our rows say. Safe to repeat and to run
-- at once in several processes: the unique keys let one win. While a revision is on its way nothing is written;
-- whoever ends that revision calls this again.
CREATE OR REPLACE FUNCTION seal_window(
  p_org text, p_meter text, p_start timestamptz, p_now timestamptz, p_force boolean DEFAULT false
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  v_end constant timestamptz := CASE p_meter WHEN 'images' THEN p_start + interval '1 hour'
    ELSE (p_start AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC' END;
  v_last meter_report;
  v_told meter_report;
  v_quantity bigint;
  v_due bigint;
  v_channel text;
BEGIN
  -- The latest revision is read before the sum: a sum that is newer than it can only lead to one revision more.
  SELECT * INTO v_last FROM meter_report
   WHERE org_id = p_org AND meter = p_meter AND hour = p_start ORDER BY revision DESC LIMIT 1;
  IF v_last.state IN ('sealed', 'sending', 'unknown') THEN RETURN false; END IF;
  SELECT quantity, due_micros INTO v_quantity, v_due
    FROM usage_of_span(p_org, p_start, v_end, p_meter = 'images');
  SELECT * INTO v_told FROM meter_report
   WHERE org_id = p_org AND meter = p_meter AND hour = p_start AND state IN ('accepted', 'confirmed', 'superseded')
   ORDER BY revision DESC LIMIT 1;
  v_channel := report_channel(p_org, p_meter, p_start, p_now);
  IF NOT p_force THEN
    IF coalesce(v_told.quantity, 0) = v_quantity AND coalesce(v_told.due_micros, 0) = v_due THEN RETURN false; END IF;
    -- What was refused is not tried again until it has changed or another way is open.
    IF v_last.state = 'failed' AND v_last.channel = v_channel AND v_last.quantity = v_quantity AND v_last.due_micros = v_due THEN RETURN false; END IF;
  END IF;
  INSERT INTO meter_report (id, org_id, meter, hour, revision, channel, quantity, due_micros, base_quantity,
                            base_micros, identifier, state, next_attempt_at, sealed_at)
  VALUES (new_id('mtr'), p_org, p_meter, p_start, coalesce(v_last.revision, 0) + 1, v_channel, v_quantity, v_due,
          coalesce(v_told.quantity, 0), coalesce(v_told.due_micros, 0),
          'ev:' || p_org || ':' || p_meter || ':' || to_char(p_start AT TIME ZONE 'UTC', 'YYYYMMDDHH24')
            || ':' || coalesce(v_last.revision, 0) + 1,
          'sealed', p_now, p_now)
  ON CONFLICT DO NOTHING;
  RETURN FOUND;
END $$;

-- Seals every window of a meter that has closed and whose usage or corrections were written since the last call.
-- An hour of overlap catches what committed late. Returns how many revisions were written.
CREATE OR REPLACE FUNCTION seal_due(p_meter text, p_closed_to timestamptz, p_now timestamptz) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
  v_unit constant text := CASE p_meter WHEN 'images' THEN 'hour' ELSE 'month' END;
  v_from timestamptz;
  v_sealed int := 0;
  w record;
BEGIN
  -- One sealer at a time: two would only do the same work.
  IF NOT pg_try_advisory_xact_lock(hashtext('seal ' || p_meter)) THEN RETURN 0; END IF;
  SELECT sealed_to - interval '1 hour' INTO v_from FROM seal_progress WHERE meter = p_meter;
  FOR w IN
    SELECT DISTINCT o.id, date_trunc(v_unit, u.occurred_at, 'UTC') AS start
      FROM org o CROSS JOIN LATERAL (
        SELECT e.occurred_at FROM usage_event e
         WHERE e.org_id = o.id AND e.occurred_at >= coalesce(v_from, '-infinity') AND e.occurred_at < p_closed_to
        UNION ALL
        SELECT e.occurred_at FROM usage_correction c JOIN usage_event e ON e.id = c.usage_event_id
         WHERE c.org_id = o.id AND c.occurred_at >= coalesce(v_from, '-infinity') AND e.occurred_at < p_closed_to) u
     WHERE o.settlement_mode = 'postpaid' AND is_metered(o.id, u.occurred_at) = (p_meter = 'images')
  LOOP
    IF seal_window(w.id, p_meter, w.start, p_now) THEN v_sealed := v_sealed + 1; END IF;
  END LOOP;
  INSERT INTO seal_progress (meter, sealed_to) VALUES (p_meter, p_closed_to)
    ON CONFLICT (meter) DO UPDATE SET sealed_to = greatest(seal_progress.sealed_to, excluded.sealed_to);
  RETURN v_sealed;
END $$;

-- Takes revisions that are due, one per org: Stripe takes one call per customer and meter at a time. A revision
-- whose sender vanished comes back when its lease is over, under the identifier that it had.
CREATE OR REPLACE FUNCTION claim_reports(p_limit int, p_lease interval, p_now timestamptz) RETURNS SETOF meter_report
LANGUAGE plpgsql AS $$
BEGIN
  -- Claims are short; taken one after the other, no two of them can take two windows of one org.
  PERFORM pg_advisory_xact_lock(hashtext('claim_reports'));
  RETURN QUERY
  UPDATE meter_report r SET state = 'sending', attempts = r.attempts + 1, next_attempt_at = p_now + p_lease
   WHERE r.id IN (
     SELECT DISTINCT ON (d.org_id) d.id FROM meter_report d JOIN org o ON o.id = d.org_id
      WHERE d.state IN ('sealed', 'sending', 'unknown') AND d.next_attempt_at <= p_now
        AND NOT EXISTS (SELECT 1 FROM meter_report busy WHERE busy.org_id = d.org_id
                          AND busy.state = 'sending' AND busy.next_attempt_at > p_now)
      ORDER BY d.org_id, d.next_attempt_at, d.hour
      LIMIT p_limit)
     -- Of the row itself: one whose sender came back while this waited for its lock is finished, and stays so.
     AND r.state IN ('sealed', 'sending', 'unknown') AND r.next_attempt_at <= p_now
  RETURNING r.*;
END $$;

-- Ends a sending, from that state and attempt alone, and looks at the window again: usage may have changed meanwhile.
CREATE OR REPLACE FUNCTION finish_report(p_id text, p_attempt int, p_state text, p_error text, p_next timestamptz, p_now timestamptz)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  r meter_report;
BEGIN
  UPDATE meter_report SET state = p_state, error = p_error, next_attempt_at = p_next,
    accepted_at = CASE p_state WHEN 'accepted' THEN p_now ELSE accepted_at END
   WHERE id = p_id AND state = 'sending' AND attempts = p_attempt RETURNING * INTO r;
  IF NOT FOUND THEN RETURN false; END IF;
  IF p_state = 'accepted' THEN
    -- The total before it is no longer what Stripe should hold; it still counts should this one be dropped.
    UPDATE meter_report SET state = 'superseded' WHERE org_id = r.org_id AND meter = r.meter AND hour = r.hour
      AND revision < r.revision AND state IN ('accepted', 'confirmed') AND r.channel = 'meter';
  END IF;
  IF p_state IN ('accepted', 'failed') THEN PERFORM seal_window(r.org_id, r.meter, r.hour, p_now); END IF;
  RETURN true;
END $$;

-- Takes back prepaid credit whose payment was returned, once per source: what is still free goes off the balance,
-- the rest is owed. Returns what is owed; null when this source was taken back before.
CREATE OR REPLACE FUNCTION withdraw_credit(p_org text, p_amount bigint, p_source text, p_payment text) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
  v_taken bigint;
BEGIN
  IF p_amount <= 0 THEN RAISE EXCEPTION 'a withdrawal must be positive, got %', p_amount; END IF;
  PERFORM 1 FROM budget WHERE scope = 'org' AND scope_id = p_org AND kind = 'balance' FOR NO KEY UPDATE;
  IF NOT FOUND THEN RAISE EXCEPTION 'org % has no prepaid balance', p_org; END IF;
  IF EXISTS (SELECT 1 FROM ledger_txn WHERE kind IN ('withdrawal', 'withdrawal_owed') AND source_id = p_source) THEN
    RETURN NULL;
  END IF;
  v_taken := take_paid_credit(p_org, p_amount, p_payment);
  IF v_taken > 0 THEN
    PERFORM post_transfer('withdrawal', p_source, 'prepaid:' || p_org, 'clearing', v_taken, 'posted');
  END IF;
  IF p_amount > v_taken THEN
    PERFORM post_transfer('withdrawal_owed', p_source, 'receivable:' || p_org, 'clearing', p_amount - v_taken, 'posted');
  END IF;
  RETURN p_amount - v_taken;
END $$;

-- Freezes an org, or lets it go, by what its disputes, invoices and returned payments are now, so that the order in
-- which news of them came does not matter. A freeze for another reason is not touched.
CREATE OR REPLACE FUNCTION refresh_freeze(p_org text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  v_mode text;
  v_current text;
  v_reason text;
BEGIN
  SELECT settlement_mode, frozen_reason INTO v_mode, v_current FROM org WHERE id = p_org FOR NO KEY UPDATE;
  v_reason := CASE
    WHEN EXISTS (SELECT 1 FROM dispute WHERE org_id = p_org AND state = 'open') THEN 'disputed_payment'
    WHEN v_mode = 'prepaid' AND owed_micros(p_org) > 0 THEN 'returned_payment'
    WHEN EXISTS (SELECT 1 FROM invoice WHERE org_id = p_org
      AND (state = 'uncollectible' OR (state = 'open' AND problem = 'overdue'))) THEN 'unpaid_invoice' END;
  IF v_reason IS NULL AND v_current IN ('disputed_payment', 'returned_payment', 'unpaid_invoice') THEN
    UPDATE org SET frozen_at = NULL, frozen_reason = NULL WHERE id = p_org;
  ELSIF v_reason IS NOT NULL AND (v_current IS NULL OR v_current IN ('disputed_payment', 'returned_payment', 'unpaid_invoice')) THEN
    UPDATE org SET frozen_at = coalesce(frozen_at, now()), frozen_reason = v_reason WHERE id = p_org;
  END IF;
  RETURN v_reason;
END $$;

ALTER FUNCTION refresh_freeze(text) SET search_path = public, pg_temp;

ALTER FUNCTION seal_due(text, timestamptz, timestamptz) SET search_path = public, pg_temp;

ALTER FUNCTION claim_reports(int, interval, timestamptz) SET search_path = public, pg_temp;

ALTER FUNCTION finish_report(text, int, text, text, timestamptz, timestamptz) SET search_path = public, pg_temp;

ALTER FUNCTION withdraw_credit(text, bigint, text, text) SET search_path = public, pg_temp;
