ALTER TABLE "ledger_watermark" ADD COLUMN "folded_to" bigint;--> statement-breakpoint
ALTER TABLE "ledger_watermark" ADD COLUMN "complete_to" bigint;