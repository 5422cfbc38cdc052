CREATE TABLE "worker" (
	"id" text PRIMARY KEY NOT NULL,
	"slots" integer NOT NULL,
	"busy" integer NOT NULL,
	"started_at" timestamp with time zone DEFAULT now() NOT NULL,
	"seen_at" timestamp with time zone DEFAULT now() NOT NULL
);
--> statement-breakpoint
ALTER TABLE "job" ADD COLUMN "request_id" text;--> statement-breakpoint
ALTER TABLE "job" ADD COLUMN "trace_parent" varchar(55);