-- What money and job functions stand on. Their guarantees and what is not promised stand in billing/LEDGER.md.
-- Lock order everywhere: job row, then budget rows key -> team -> org. In a level the balance row comes first and
-- guards the rows of days and months: they are made, limited and counted only under its lock.

CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '% is append-only', TG_TABLE_NAME;
END $$;

CREATE OR REPLACE TRIGGER ledger_entry_append_only BEFORE UPDATE OR DELETE ON ledger_entry
  FOR EACH ROW EXECUTE FUNCTION refuse_change();

CREATE OR REPLACE TRIGGER ledger_txn_append_only BEFORE UPDATE OR DELETE ON ledger_txn
  FOR EACH ROW EXECUTE FUNCTION refuse_change();

CREATE OR REPLACE TRIGGER usage_event_append_only BEFORE UPDATE OR DELETE ON usage_event
  FOR EACH ROW EXECUTE FUNCTION refuse_change();

CREATE OR REPLACE TRIGGER ledger_entry_keep BEFORE TRUNCATE ON ledger_entry EXECUTE FUNCTION refuse_change();

CREATE OR REPLACE TRIGGER ledger_txn_keep BEFORE TRUNCATE ON ledger_txn EXECUTE FUNCTION refuse_change();

CREATE OR REPLACE TRIGGER usage_event_keep BEFORE TRUNCATE ON usage_event EXECUTE FUNCTION refuse_change();

CREATE OR REPLACE TRIGGER price_version_keep BEFORE TRUNCATE ON price_version EXECUTE FUNCTION refuse_change();

-- The same form as ids made outside: prefix, 10 characters of time, 16 random ones.
CREATE OR REPLACE FUNCTION new_id(prefix text) RETURNS text LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  alphabet constant text := '0123456789abcdefghjkmnpqrstvwxyz';
  rest bigint := (extract(epoch FROM clock_timestamp()) * 1000)::bigint;
  random bytea := uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid());
  made text := '';
BEGIN
  FOR i IN 1..10 LOOP
    made := substr(alphabet, (rest % 32)::int + 1, 1) || made;
    rest := rest / 32;
  END LOOP;
  FOR i IN 0..31 BY 2 LOOP
    made := made || substr(alphabet, (get_byte(random, i) # get_byte(random, i + 1)) % 32 + 1, 1);
  END LOOP;
  RETURN prefix || '_' || made;
END $$;

-- The endpoints of an org that want events of a type. Stands where it is called, as a view would.
CREATE OR REPLACE FUNCTION endpoints_for(p_org text, p_type text) RETURNS SETOF webhook_endpoint LANGUAGE sql STABLE AS $$
  SELECT * FROM webhook_endpoint
   WHERE org_id = p_org AND enabled AND deleted_at IS NULL AND (event_types = '{}' OR p_type = ANY (event_types))
$$;

-- The start of the calendar day or month, in UTC, in which an instant lies.
CREATE OR REPLACE FUNCTION period_of(p_kind text, p_at timestamptz) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$
  SELECT date_trunc(p_kind, p_at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'
$$;

-- The day or month in which a job counts: that of the start of the transaction that accepts it, as its created_at is.
CREATE OR REPLACE FUNCTION period_start(p_kind text) RETURNS timestamptz LANGUAGE sql STABLE AS $$
  SELECT period_of(p_kind, now())
$$;

-- The start of the day or month after the one that starts then.
CREATE OR REPLACE FUNCTION period_end(p_kind text, p_start timestamptz) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$
  SELECT (p_start AT TIME ZONE 'UTC' + CASE p_kind WHEN 'day' THEN interval '1 day' ELSE interval '1 month' END)
         AT TIME ZONE 'UTC'
$$;

-- The month under way, by the same clock.
CREATE OR REPLACE FUNCTION month_start() RETURNS timestamptz LANGUAGE sql STABLE AS $$
  SELECT period_start('month')
$$;

DROP FUNCTION IF EXISTS month_end(timestamptz), month_of(timestamptz);
