ALTER TABLE "reservation" DROP CONSTRAINT "reservation_job_id_job_id_fk";
--> statement-breakpoint
ALTER TABLE "reservation" DROP CONSTRAINT "reservation_price_version_id_price_version_id_fk";
--> statement-breakpoint
ALTER TABLE "reservation" DROP CONSTRAINT "reservation_list_version_id_price_version_id_fk";
--> statement-breakpoint
ALTER TABLE "reservation" DROP CONSTRAINT "reservation_org_price_id_org_price_id_fk";
--> statement-breakpoint
ALTER TABLE "reservation_leg" DROP CONSTRAINT "reservation_leg_reservation_id_reservation_id_fk";
--> statement-breakpoint
ALTER TABLE "reservation_leg" DROP CONSTRAINT "reservation_leg_budget_id_budget_id_fk";
--> statement-breakpoint
ALTER TABLE "credit_burn" DROP CONSTRAINT "credit_burn_grant_id_credit_grant_id_fk";
--> statement-breakpoint
ALTER TABLE "credit_burn" DROP CONSTRAINT "credit_burn_job_id_job_id_fk";
--> statement-breakpoint
ALTER TABLE "job" DROP CONSTRAINT "job_org_id_org_id_fk";
--> statement-breakpoint
ALTER TABLE "job" DROP CONSTRAINT "job_team_id_team_id_fk";
--> statement-breakpoint
ALTER TABLE "job" DROP CONSTRAINT "job_key_id_api_key_id_fk";
--> statement-breakpoint
ALTER TABLE "job_output" DROP CONSTRAINT "job_output_job_id_job_id_fk";
--> statement-breakpoint
ALTER TABLE "ledger_entry" DROP CONSTRAINT "ledger_entry_txn_id_ledger_txn_id_fk";
--> statement-breakpoint
ALTER TABLE "ledger_entry" DROP CONSTRAINT "ledger_entry_account_id_ledger_account_id_fk";
--> statement-breakpoint
ALTER TABLE "usage_event" DROP CONSTRAINT "usage_event_job_id_job_id_fk";
--> statement-breakpoint
ALTER TABLE "usage_event" DROP CONSTRAINT "usage_event_sku_id_sku_id_fk";
--> statement-breakpoint
ALTER TABLE "usage_event" DROP CONSTRAINT "usage_event_price_version_id_price_version_id_fk";
--> statement-breakpoint
ALTER TABLE "usage_event" DROP CONSTRAINT "usage_event_list_version_id_price_version_id_fk";
--> statement-breakpoint
ALTER TABLE "usage_event" DROP CONSTRAINT "usage_event_org_price_id_org_price_id_fk";
--> statement-breakpoint
ALTER TABLE "webhook_event" DROP CONSTRAINT "webhook_event_org_id_org_id_fk";
--> statement-breakpoint
DROP INDEX "reservation_held_by_expiry";--> statement-breakpoint
DROP INDEX "job_unfinished";--> statement-breakpoint
DROP INDEX "job_idempotency_once";--> statement-breakpoint
CREATE INDEX "job_open_by_deadline" ON "job" USING btree ("deadline_at") WHERE "job"."finished_at" is null;--> statement-breakpoint
CREATE INDEX "job_open_by_age" ON "job" USING btree ("created_at") WHERE "job"."finished_at" is null;--> statement-breakpoint
CREATE UNIQUE INDEX "job_idempotency_once" ON "job" USING btree ("key_id","idempotency_key") WHERE "job"."idempotency_key" is not null;