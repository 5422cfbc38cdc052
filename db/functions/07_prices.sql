-- The price book: dated versions that never overlap, contracts of single orgs, and what a request costs.

-- Prices and contracts are never edited. All that can happen to a row is that its open end is closed, now or later:
-- what was charged by it stays what it was.
CREATE OR REPLACE FUNCTION refuse_price_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'UPDATE' AND OLD.valid_to IS NULL AND NEW.valid_to >= now()
     AND to_jsonb(NEW) - 'valid_to' = to_jsonb(OLD) - 'valid_to' THEN
    RETURN NEW;
  END IF;
  RAISE EXCEPTION '% is append-only', TG_TABLE_NAME;
END $$;

CREATE OR REPLACE TRIGGER price_version_append_only BEFORE UPDATE OR DELETE ON price_version
  FOR EACH ROW EXECUTE FUNCTION refuse_price_change();

CREATE OR REPLACE TRIGGER org_price_append_only BEFORE UPDATE OR DELETE ON org_price
  FOR EACH ROW EXECUTE FUNCTION refuse_price_change();

CREATE OR REPLACE TRIGGER org_price_keep BEFORE TRUNCATE ON org_price EXECUTE FUNCTION refuse_change();

-- Whether tiers are in order: rising ends, the last one open, no negative price.
CREATE OR REPLACE FUNCTION are_tiers(p_tiers jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
  SELECT count(*) > 0 AND bool_and(
    (t->>'price_micros')::bigint >= 0
    AND ((t->>'up_to') IS NULL) = (n = total)
    AND coalesce((t->>'up_to')::bigint > coalesce(before, 0), true))
  FROM (
    SELECT t, n, count(*) OVER () AS total, lag((t->>'up_to')::bigint) OVER (ORDER BY n) AS before
      FROM jsonb_array_elements(p_tiers) WITH ORDINALITY AS x(t, n)
  ) AS listed
$$;

-- Puts a price into force from an instant on, and ends the one before there. Never for the past.
CREATE OR REPLACE FUNCTION publish_price(
  p_id text, p_book text, p_sku text, p_price bigint, p_per bigint, p_tiers jsonb, p_from timestamptz
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF p_from < now() THEN RAISE EXCEPTION 'a price cannot begin in the past' USING ERRCODE = 'GP400'; END IF;
  IF p_tiers IS NOT NULL AND NOT coalesce(are_tiers(p_tiers), false) THEN
    RAISE EXCEPTION 'tiers need rising ends, an open last one and no negative price' USING ERRCODE = 'GP400';
  END IF;
  UPDATE price_version SET valid_to = p_from
   WHERE book_id = p_book AND sku_id = p_sku AND valid_to IS NULL AND valid_from < p_from;
  INSERT INTO price_version (id, book_id, sku_id, price_micros, per_units, tiers, valid_from)
  VALUES (p_id, p_book, p_sku, coalesce((SELECT max((t->>'price_micros')::bigint) FROM jsonb_array_elements(p_tiers) t),
                                        p_price), p_per, p_tiers, p_from);
EXCEPTION WHEN exclusion_violation OR unique_violation THEN
  RAISE EXCEPTION 'another price of this book and SKU begins at that time or later' USING ERRCODE = 'GP400';
END $$;

-- Puts a contract into force from an instant on, and ends the org's contract before there.
CREATE OR REPLACE FUNCTION agree_price(p_id text, p_org text, p_book text, p_discount int, p_from timestamptz)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF p_from < now() THEN RAISE EXCEPTION 'a contract cannot begin in the past' USING ERRCODE = 'GP400'; END IF;
  UPDATE org_price SET valid_to = p_from WHERE org_id = p_org AND valid_to IS NULL AND valid_from < p_from;
  INSERT INTO org_price (id, org_id, book_id, discount_bp, valid_from) VALUES (p_id, p_org, p_book, p_discount, p_from);
EXCEPTION WHEN exclusion_violation THEN
  RAISE EXCEPTION 'another contract of this organisation begins at that time or later' USING ERRCODE = 'GP400';
END $$;

-- The price of a book for a request at an instant: of all SKUs that fit, the most particular one that has a price.
CREATE OR REPLACE FUNCTION price_in_book(
  p_book text, p_model text, p_class text, p_quality text, p_priority text, p_at timestamptz
) RETURNS price_version LANGUAGE sql STABLE AS $$
  SELECT v.* FROM sku s JOIN price_version v ON v.sku_id = s.id
   WHERE v.book_id = p_book AND s.model = p_model AND s.size_class IN ('any', p_class)
     AND s.quality IN ('any', p_quality) AND s.priority IN ('any', p_priority)
     AND v.valid_from <= p_at AND (v.valid_to IS NULL OR v.valid_to > p_at)
   ORDER BY (s.priority <> 'any')::int + (s.size_class <> 'any')::int + (s.quality <> 'any')::int DESC,
            s.priority <> 'any' DESC, s.size_class <> 'any' DESC
   LIMIT 1
$$;

-- The price of the tier in which a place of the month lies; null without tiers.
CREATE OR REPLACE FUNCTION tier_price(p_tiers jsonb, p_position bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
  SELECT (t->>'price_micros')::bigint FROM jsonb_array_elements(p_tiers) WITH ORDINALITY AS x(t, n)
   WHERE t->>'up_to' IS NULL OR p_position <= (t->>'up_to')::bigint
   ORDER BY n LIMIT 1
$$;

-- One image's price in micro-USD by a version, at its place in the org's month, less a discount in basis points.
-- Rounded half up, once. Plain enough for the planner to put it in place of a call.
CREATE OR REPLACE FUNCTION image_price(v price_version, p_position bigint, p_discount int) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
  SELECT (2 * CASE WHEN v.tiers IS NULL THEN v.price_micros ELSE coalesce(tier_price(v.tiers, p_position), v.price_micros) END
            * (10000 - p_discount) + v.per_units * 10000) / (2 * v.per_units * 10000)
$$;

-- What one image of a request costs an org: by its contract where there is one, beside the list price. Null when the
-- request is not for sale. `unit_micros` is the most it can cost, whatever place in the month it will have.
CREATE OR REPLACE FUNCTION quote_price(
  p_org text, p_model text, p_class text, p_quality text, p_priority text, p_at timestamptz
) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
DECLARE
  v_list price_version := price_in_book('default', p_model, p_class, p_quality, p_priority, p_at);
  v_price price_version;
  c org_price;
BEGIN
  SELECT * INTO c FROM org_price
   WHERE org_id = p_org AND valid_from <= p_at AND (valid_to IS NULL OR valid_to > p_at);
  IF FOUND THEN v_price := price_in_book(c.book_id, p_model, p_class, p_quality, p_priority, p_at); END IF;
  -- A contract that says nothing about this request leaves its discount on the list price.
  IF v_price.id IS NULL THEN v_price := v_list; END IF;
  IF v_price.id IS NULL THEN RETURN NULL; END IF;
  -- What only a contract sells has no other list price than its own.
  IF v_list.id IS NULL THEN v_list := v_price; END IF;
  RETURN jsonb_build_object(
    'sku_id', v_price.sku_id, 'price_version_id', v_price.id, 'list_version_id', v_list.id, 'org_price_id', c.id,
    'unit_micros', ((2 * v_price.price_micros * (10000 - coalesce(c.discount_bp, 0)) + v_price.per_units * 10000)
                    / (2 * v_price.per_units * 10000))::text,
    'list_micros', image_price(v_list, 1, 0)::text,
    'currency', (SELECT currency FROM price_book WHERE id = v_price.book_id));
END $$;

-- Takes the next places in the org's month for some pictures, where their price has tiers; returns how many were
-- taken before. The caller holds the org's balance row.
CREATE OR REPLACE FUNCTION take_places(p_org text, p_sku text, p_count int) RETURNS bigint LANGUAGE sql AS $$
  INSERT INTO usage_counter AS c (org_id, sku_id, month_start, images) VALUES (p_org, p_sku, month_start(), p_count)
  ON CONFLICT (org_id, sku_id, month_start) DO UPDATE SET images = c.images + p_count
  RETURNING images - p_count
$$;
