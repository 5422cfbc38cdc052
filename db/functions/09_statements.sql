-- Months that are closed, and keys that change their team. What both mean stands in billing/LEDGER.md.

CREATE OR REPLACE TRIGGER statement_append_only BEFORE UPDATE OR DELETE ON statement
  FOR EACH ROW EXECUTE FUNCTION refuse_change();

CREATE OR REPLACE TRIGGER statement_keep BEFORE TRUNCATE ON statement EXECUTE FUNCTION refuse_change();

CREATE OR REPLACE TRIGGER usage_correction_append_only BEFORE UPDATE OR DELETE ON usage_correction
  FOR EACH ROW EXECUTE FUNCTION refuse_change();

CREATE OR REPLACE TRIGGER usage_correction_keep BEFORE TRUNCATE ON usage_correction EXECUTE FUNCTION refuse_change();

CREATE OR REPLACE TRIGGER key_assignment_append_only BEFORE UPDATE OR DELETE ON key_assignment
  FOR EACH ROW EXECUTE FUNCTION refuse_change();

-- The last guard behind a closed statement: a line dated into its month is refused. Whoever settles tries again,
-- and the new attempt has the date of its own day.
CREATE OR REPLACE FUNCTION refuse_closed_month() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (
    SELECT 1 FROM statement s
     WHERE s.org_id = NEW.org_id AND (s.team_id IS NULL OR s.team_id = NEW.team_id)
       AND s.period_start <= NEW.occurred_at AND s.period_end > NEW.occurred_at
  ) THEN
    RAISE EXCEPTION 'the month of % is closed for org %', NEW.occurred_at, NEW.org_id;
  END IF;
  RETURN NEW;
END $$;

-- Only a month that is over can be closed, so lines of the month under way are let through unseen.
CREATE OR REPLACE TRIGGER usage_event_month_open BEFORE INSERT ON usage_event FOR EACH ROW
  WHEN (date_trunc('month', NEW.occurred_at AT TIME ZONE 'UTC') < date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC'))
  EXECUTE FUNCTION refuse_closed_month();

CREATE OR REPLACE TRIGGER usage_correction_month_open BEFORE INSERT ON usage_correction FOR EACH ROW
  WHEN (date_trunc('month', NEW.occurred_at AT TIME ZONE 'UTC') < date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC'))
  EXECUTE FUNCTION refuse_closed_month();

-- The team that a usage line counts on now: its own, or where it was last moved to.
CREATE OR REPLACE FUNCTION usage_team(u usage_event) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT coalesce((
    SELECT c.team_id FROM usage_correction c JOIN key_assignment k ON k.id = c.source_id
     WHERE c.usage_event_id = u.id AND c.reason = 'moved_in'
     ORDER BY k.recorded_at DESC LIMIT 1), u.team_id)
$$;

-- Gives a key to another team of its org from an instant on. The key's balance row is locked first, so a
-- reservation under way ends on the old team and a later one starts on the new. A repeat of the newest move
-- returns that move.
CREATE OR REPLACE FUNCTION move_key(p_key text, p_team text, p_from timestamptz, p_assignment text) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  k api_key;
  v_last key_assignment;
BEGIN
  PERFORM 1 FROM budget WHERE scope = 'key' AND scope_id = p_key AND kind = 'balance' FOR NO KEY UPDATE;
  SELECT * INTO k FROM api_key WHERE id = p_key FOR NO KEY UPDATE;
  IF NOT FOUND THEN RETURN jsonb_build_object('outcome', 'key_not_found'); END IF;
  IF NOT EXISTS (SELECT 1 FROM team WHERE id = p_team AND org_id = k.org_id) THEN
    RETURN jsonb_build_object('outcome', 'team_not_found');
  END IF;
  -- Clocks differ a little; a date that has really not come would need somebody to act on it then.
  IF p_from > clock_timestamp() + interval '5 minutes' THEN
    RETURN jsonb_build_object('outcome', 'in_future');
  END IF;
  SELECT * INTO v_last FROM key_assignment WHERE key_id = p_key ORDER BY recorded_at DESC LIMIT 1;
  IF v_last.team_id = p_team AND v_last.valid_from = p_from THEN
    RETURN jsonb_build_object('outcome', 'moved', 'assignment_id', v_last.id);
  END IF;
  INSERT INTO key_assignment (id, key_id, team_id, valid_from, recorded_at)
  VALUES (p_assignment, p_key, p_team, p_from, clock_timestamp());
  UPDATE api_key SET team_id = p_team WHERE id = p_key;
  RETURN jsonb_build_object('outcome', 'moved', 'assignment_id', p_assignment);
END $$;

-- Moves what teams of an internal org have cost from one to the other, once per source. Where teams have no
-- accounts of their own there is nothing to move: the org's account holds the cost of all.
CREATE OR REPLACE FUNCTION move_team_cost(p_org text, p_from text, p_to text, p_amount bigint, p_source text)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  v_from constant text := (SELECT id FROM ledger_account WHERE org_id = p_org AND type = 'team_cost' AND team_id = p_from);
  v_to constant text := (SELECT id FROM ledger_account WHERE org_id = p_org AND type = 'team_cost' AND team_id = p_to);
BEGIN
  IF v_from IS NULL OR v_to IS NULL OR p_amount = 0 THEN RETURN false; END IF;
  RETURN post_transfer('move', p_source, v_to, v_from, p_amount, 'posted');
END $$;

-- A page of a key's usage since the date of its newest move: each line that counts on another team is taken from
-- there and given to the new one, by two corrections of today. Unique keys make a repeat write nothing. The lock on
-- the key keeps two moves from working on its lines at once; an older move stops where a newer one has begun.
CREATE OR REPLACE FUNCTION correct_moved_usage(p_assignment text, p_after timestamptz, p_after_id text, p_limit int)
RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  a key_assignment;
  v_org org;
  v_page record;
  v_part record;
  v_lines bigint := 0;
  v_net bigint := 0;
BEGIN
  SELECT * INTO a FROM key_assignment WHERE id = p_assignment;
  PERFORM 1 FROM api_key WHERE id = a.key_id FOR NO KEY UPDATE;
  SELECT o.* INTO v_org FROM org o JOIN api_key k ON k.org_id = o.id WHERE k.id = a.key_id;
  IF EXISTS (SELECT 1 FROM key_assignment WHERE key_id = a.key_id AND recorded_at > a.recorded_at) THEN
    RETURN jsonb_build_object('outcome', 'superseded');
  END IF;
  SELECT count(*) AS lines, (array_agg(occurred_at ORDER BY occurred_at, id))[count(*)] AS last_at,
         (array_agg(id ORDER BY occurred_at, id))[count(*)] AS last_id INTO v_page
    FROM (SELECT id, occurred_at FROM usage_event
           WHERE org_id = v_org.id AND key_id = a.key_id AND occurred_at >= greatest(a.valid_from, p_after)
             AND (occurred_at, id) > (p_after, p_after_id)
           ORDER BY occurred_at, id LIMIT p_limit) page;
  FOR v_part IN
    WITH lines AS (
      SELECT u.*, usage_team(u) AS held_by FROM usage_event u
       WHERE org_id = v_org.id AND key_id = a.key_id AND occurred_at >= greatest(a.valid_from, p_after)
         AND (occurred_at, id) > (p_after, p_after_id) AND (occurred_at, id) <= (v_page.last_at, v_page.last_id)
    ), held AS (
      SELECT l.id, l.held_by, sum(p.images)::int AS images, sum(p.list)::bigint AS list,
             sum(p.discount)::bigint AS discount, sum(p.net)::bigint AS net, sum(p.credit)::bigint AS credit
        FROM lines l CROSS JOIN LATERAL (
          SELECT 1 AS images, l.list_micros AS list, l.discount_micros AS discount, l.net_micros AS net,
                 l.credit_micros AS credit WHERE l.team_id = l.held_by
          UNION ALL
          SELECT c.images, c.list_micros, c.discount_micros, c.net_micros, c.credit_micros
            FROM usage_correction c WHERE c.usage_event_id = l.id AND c.team_id = l.held_by
        ) p
       WHERE l.held_by <> a.team_id GROUP BY l.id, l.held_by
    ), sides AS (
      SELECT h.*, 'moved_out' AS reason, h.held_by AS team, -1 AS sign FROM held h
      UNION ALL SELECT h.*, 'moved_in', a.team_id, 1 FROM held h
    ), written AS (
      INSERT INTO usage_correction (id, usage_event_id, reason, source_id, org_id, team_id, key_id, images,
                                    list_micros, discount_micros, net_micros, credit_micros)
      SELECT new_id('cor'), id, reason, a.id, v_org.id, team, a.key_id, sign * images,
             sign * list, sign * discount, sign * net, sign * credit
        FROM sides WHERE images <> 0 OR list <> 0 OR net <> 0 OR credit <> 0
      ON CONFLICT (usage_event_id, reason, source_id) DO NOTHING
      RETURNING reason, team_id, net_micros, usage_event_id
    )
    SELECT team_id, count(*) AS lines, -sum(net_micros)::bigint AS net, min(usage_event_id) AS first
      FROM written WHERE reason = 'moved_out' GROUP BY team_id
  LOOP
    v_lines := v_lines + v_part.lines;
    v_net := v_net + v_part.net;
    IF v_org.settlement_mode = 'internal' THEN
      PERFORM move_team_cost(v_org.id, v_part.team_id, a.team_id, v_part.net, a.id || ':' || v_part.first);
    END IF;
  END LOOP;
  RETURN jsonb_build_object('outcome', 'corrected', 'scanned', v_page.lines, 'moved', v_lines,
    'net_micros', v_net::text, 'after', v_page.last_at::text, 'after_id', v_page.last_id);
END $$;

ALTER FUNCTION move_key(text, text, timestamptz, text) SET search_path = public, pg_temp;

ALTER FUNCTION correct_moved_usage(text, timestamptz, text, int) SET search_path = public, pg_temp;

ALTER FUNCTION refuse_closed_month() SET search_path = public, pg_temp;
