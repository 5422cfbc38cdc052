ALTER TABLE "job" ADD COLUMN "input_images" jsonb;--> statement-breakpoint
ALTER TABLE "model" ADD COLUMN "images" jsonb;