CREATE TABLE "job_tokens" (
	"job_id" text NOT NULL,
	"idx" integer NOT NULL,
	"weights_hash" text NOT NULL,
	"tokens" "bytea" NOT NULL,
	CONSTRAINT "job_tokens_job_id_idx_pk" PRIMARY KEY("job_id","idx")
);
