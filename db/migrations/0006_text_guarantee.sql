ALTER TABLE "job" ADD COLUMN "text_terms" jsonb;--> statement-breakpoint
ALTER TABLE "job_output" ADD COLUMN "text_check" jsonb;--> statement-breakpoint
ALTER TABLE "job_output" ADD COLUMN "unbilled_reason" text;