-- Budget rows are updated all day long in place; free room on the page keeps those updates off the indexes.
ALTER TABLE budget SET (fillfactor = 50);
--> statement-breakpoint
ALTER TABLE job SET (fillfactor = 80);
--> statement-breakpoint
-- The price book: dated versions that never overlap.
CREATE EXTENSION IF NOT EXISTS btree_gist;
--> statement-breakpoint
ALTER TABLE price_version ADD CONSTRAINT price_version_no_overlap
  EXCLUDE USING gist (book_id WITH =, sku_id WITH =, tstzrange(valid_from, valid_to) WITH &&);
--> statement-breakpoint
ALTER TABLE org_price ADD CONSTRAINT org_price_no_overlap
  EXCLUDE USING gist (org_id WITH =, tstzrange(valid_from, valid_to) WITH &&);
--> statement-breakpoint
INSERT INTO sku (id, model, size_class, unit) VALUES ('sku_glm_image', 'glm-image', 'any', 'image');
--> statement-breakpoint
INSERT INTO price_book (id, name, currency) VALUES ('default', 'List prices', 'USD');
--> statement-breakpoint
INSERT INTO price_version (id, book_id, sku_id, price_micros, per_units, valid_from)
VALUES ('price_glm_image_1', 'default', 'sku_glm_image', 15000, 1, '2026-01-01T00:00:00Z');
--> statement-breakpoint
-- The platform's own accounts. What they mean stands in billing/LEDGER.md.
INSERT INTO ledger_account (id, org_id, type)
VALUES ('revenue', NULL, 'revenue'), ('recovery', NULL, 'recovery'), ('clearing', NULL, 'clearing'),
       ('promo_expense', NULL, 'promo_expense'), ('breakage', NULL, 'breakage'), ('refunds', NULL, 'refunds'),
       ('write_off', NULL, 'write_off'), ('rounding', NULL, 'rounding'), ('disputes', NULL, 'disputes');
