CREATE TABLE "budget" (
	"id" text PRIMARY KEY NOT NULL,
	"scope" text NOT NULL,
	"scope_id" text NOT NULL,
	"kind" text NOT NULL,
	"period_start" timestamp with time zone NOT NULL,
	"period_end" timestamp with time zone,
	"limit_micros" bigint,
	"limit_next_micros" bigint,
	"day_limit_micros" bigint,
	"month_limit_micros" bigint,
	"held_micros" bigint DEFAULT 0 NOT NULL,
	"spent_micros" bigint DEFAULT 0 NOT NULL,
	"inflight" integer DEFAULT 0 NOT NULL,
	"max_inflight" integer,
	"soft_bp" integer[] DEFAULT '{}' NOT NULL,
	CONSTRAINT "budget_limits_not_negative" CHECK (least("budget"."limit_micros", "budget"."month_limit_micros", "budget"."max_inflight") >= 0),
	CONSTRAINT "budget_held_not_negative" CHECK ("budget"."held_micros" >= 0),
	CONSTRAINT "budget_spent_not_negative" CHECK ("budget"."spent_micros" >= 0),
	CONSTRAINT "budget_limit_holds" CHECK ("budget"."held_micros" + "budget"."spent_micros" <= "budget"."limit_micros"),
	CONSTRAINT "budget_inflight_holds" CHECK ("budget"."inflight" >= 0 and "budget"."inflight" <= "budget"."max_inflight")
);
--> statement-breakpoint
CREATE TABLE "budget_alert" (
	"budget_id" text NOT NULL,
	"bp" integer NOT NULL,
	"fired_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "budget_alert_budget_id_bp_pk" PRIMARY KEY("budget_id","bp")
);
--> statement-breakpoint
CREATE TABLE "reservation" (
	"id" text PRIMARY KEY NOT NULL,
	"job_id" text NOT NULL,
	"state" text NOT NULL,
	"unit_micros" bigint NOT NULL,
	"amount_micros" bigint NOT NULL,
	"captured_micros" bigint DEFAULT 0 NOT NULL,
	"price_version_id" text NOT NULL,
	"list_version_id" text NOT NULL,
	"org_price_id" text,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"expires_at" timestamp with time zone NOT NULL,
	"settled_at" timestamp with time zone,
	CONSTRAINT "reservation_capture_within_hold" CHECK ("reservation"."captured_micros" between 0 and "reservation"."amount_micros")
);
--> statement-breakpoint
CREATE TABLE "reservation_leg" (
	"reservation_id" text NOT NULL,
	"budget_id" text NOT NULL,
	CONSTRAINT "reservation_leg_reservation_id_budget_id_pk" PRIMARY KEY("reservation_id","budget_id")
);
--> statement-breakpoint
CREATE TABLE "credit_burn" (
	"grant_id" text NOT NULL,
	"job_id" text NOT NULL,
	"amount_micros" bigint NOT NULL,
	"returned_micros" bigint DEFAULT 0 NOT NULL,
	CONSTRAINT "credit_burn_grant_id_job_id_pk" PRIMARY KEY("grant_id","job_id"),
	CONSTRAINT "credit_burn_positive" CHECK ("credit_burn"."amount_micros" > 0),
	CONSTRAINT "credit_burn_returned" CHECK ("credit_burn"."returned_micros" between 0 and "credit_burn"."amount_micros")
);
--> statement-breakpoint
CREATE TABLE "credit_grant" (
	"id" text PRIMARY KEY NOT NULL,
	"org_id" text NOT NULL,
	"kind" text NOT NULL,
	"amount_micros" bigint NOT NULL,
	"remaining_micros" bigint NOT NULL,
	"withdrawn_micros" bigint DEFAULT 0 NOT NULL,
	"priority" integer DEFAULT 50 NOT NULL,
	"source_id" text NOT NULL,
	"effective_at" timestamp with time zone DEFAULT now() NOT NULL,
	"expires_at" timestamp with time zone,
	"expired_at" timestamp with time zone,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "credit_grant_source_id_unique" UNIQUE("source_id"),
	CONSTRAINT "credit_grant_positive" CHECK ("credit_grant"."amount_micros" > 0),
	CONSTRAINT "credit_grant_remaining" CHECK ("credit_grant"."remaining_micros" between 0 and "credit_grant"."amount_micros")
);
--> statement-breakpoint
CREATE TABLE "job" (
	"id" text PRIMARY KEY NOT NULL,
	"org_id" text NOT NULL,
	"team_id" text NOT NULL,
	"key_id" text NOT NULL,
	"idempotency_key" text,
	"request_hash" text NOT NULL,
	"dialect" text NOT NULL,
	"model" text NOT NULL,
	"prompt" text,
	"width" integer NOT NULL,
	"height" integer NOT NULL,
	"n" integer NOT NULL,
	"quality" text DEFAULT 'hd' NOT NULL,
	"priority" text DEFAULT 'standard' NOT NULL,
	"seed" bigint NOT NULL,
	"steps" integer,
	"guidance_scale" real,
	"format" text NOT NULL,
	"caller_fields" jsonb DEFAULT '{}'::jsonb NOT NULL,
	"webhook_url" text,
	"state" text NOT NULL,
	"attempt" integer DEFAULT 0 NOT NULL,
	"failed_attempts" integer DEFAULT 0 NOT NULL,
	"worker_id" text,
	"lease_until" timestamp with time zone,
	"progress" jsonb,
	"cancel_requested_at" timestamp with time zone,
	"error_code" text,
	"error_message" text,
	"billed_reason" text,
	"run_info" jsonb,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"dispatched_at" timestamp with time zone,
	"started_at" timestamp with time zone,
	"finished_at" timestamp with time zone,
	"deadline_at" timestamp with time zone NOT NULL,
	"deleted_at" timestamp with time zone,
	CONSTRAINT "job_n_positive" CHECK ("job"."n" between 1 and 10)
);
--> statement-breakpoint
CREATE TABLE "job_output" (
	"job_id" text NOT NULL,
	"idx" integer NOT NULL,
	"object_key" text NOT NULL,
	"sha256" text NOT NULL,
	"size_bytes" integer NOT NULL,
	"content_type" text NOT NULL,
	"width" integer NOT NULL,
	"height" integer NOT NULL,
	"seed" bigint NOT NULL,
	"stored_at" timestamp with time zone DEFAULT now() NOT NULL,
	"deleted_at" timestamp with time zone,
	CONSTRAINT "job_output_job_id_idx_pk" PRIMARY KEY("job_id","idx")
);
--> statement-breakpoint
CREATE TABLE "model" (
	"id" text PRIMARY KEY NOT NULL,
	"size" jsonb NOT NULL,
	"steps" integer NOT NULL,
	"guidance_scale" real NOT NULL,
	"notice" text,
	"weights_hash" text NOT NULL,
	"announced_at" timestamp with time zone DEFAULT now() NOT NULL
);
--> statement-breakpoint
CREATE TABLE "api_key" (
	"id" text PRIMARY KEY NOT NULL,
	"org_id" text NOT NULL,
	"team_id" text NOT NULL,
	"name" text NOT NULL,
	"env" text NOT NULL,
	"hash" text NOT NULL,
	"last4" text NOT NULL,
	"scopes" text[] NOT NULL,
	"tags" jsonb DEFAULT '{}'::jsonb NOT NULL,
	"requests_per_minute" integer,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"expires_at" timestamp with time zone,
	"revoked_at" timestamp with time zone,
	CONSTRAINT "api_key_env_known" CHECK ("api_key"."env" in ('live', 'test'))
);
--> statement-breakpoint
CREATE TABLE "key_assignment" (
	"id" text PRIMARY KEY NOT NULL,
	"key_id" text NOT NULL,
	"team_id" text NOT NULL,
	"valid_from" timestamp with time zone NOT NULL,
	"recorded_at" timestamp with time zone DEFAULT now() NOT NULL
);
--> statement-breakpoint
CREATE TABLE "ledger_account" (
	"id" text PRIMARY KEY NOT NULL,
	"org_id" text,
	"team_id" text,
	"type" text NOT NULL,
	"currency" text DEFAULT 'USD' NOT NULL
);
--> statement-breakpoint
CREATE TABLE "ledger_balance" (
	"account_id" text PRIMARY KEY NOT NULL,
	"pending_micros" bigint NOT NULL,
	"posted_micros" bigint NOT NULL
);
--> statement-breakpoint
CREATE TABLE "ledger_entry" (
	"id" bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY (sequence name "ledger_entry_id_seq" INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1 CACHE 1),
	"txn_id" text NOT NULL,
	"account_id" text NOT NULL,
	"amount_micros" bigint NOT NULL,
	"phase" text NOT NULL,
	"xid" "xid8" DEFAULT pg_current_xact_id() NOT NULL,
	CONSTRAINT "ledger_entry_phase_known" CHECK ("ledger_entry"."phase" in ('pending', 'posted'))
);
--> statement-breakpoint
CREATE TABLE "ledger_line" (
	"org_id" text NOT NULL,
	"seq" bigint NOT NULL,
	"entry_id" bigint NOT NULL,
	"hash" text NOT NULL,
	"chained_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "ledger_line_org_id_seq_pk" PRIMARY KEY("org_id","seq"),
	CONSTRAINT "ledger_line_entry_id_unique" UNIQUE("entry_id")
);
--> statement-breakpoint
CREATE TABLE "ledger_txn" (
	"id" text PRIMARY KEY NOT NULL,
	"kind" text NOT NULL,
	"source_id" text NOT NULL,
	"occurred_at" timestamp with time zone DEFAULT now() NOT NULL
);
--> statement-breakpoint
CREATE TABLE "ledger_watermark" (
	"projection" text PRIMARY KEY NOT NULL,
	"xid" "xid8" NOT NULL
);
--> statement-breakpoint
CREATE TABLE "org" (
	"id" text PRIMARY KEY NOT NULL,
	"name" text NOT NULL,
	"kind" text NOT NULL,
	"settlement_mode" text NOT NULL,
	"stripe_customer_id" text,
	"frozen_at" timestamp with time zone,
	"frozen_reason" text,
	"auto_topup_below_micros" bigint,
	"auto_topup_micros" bigint,
	"auto_topup_set_at" timestamp with time zone,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "org_stripe_customer_id_unique" UNIQUE("stripe_customer_id"),
	CONSTRAINT "org_settlement_once" UNIQUE("id","settlement_mode"),
	CONSTRAINT "org_auto_topup_whole" CHECK (("org"."auto_topup_below_micros" is null) = ("org"."auto_topup_micros" is null) and "org"."auto_topup_micros" > 0),
	CONSTRAINT "org_kind_known" CHECK ("org"."kind" in ('external', 'internal')),
	CONSTRAINT "org_settlement_known" CHECK ("org"."settlement_mode" in ('prepaid', 'postpaid', 'internal'))
);
--> statement-breakpoint
CREATE TABLE "team" (
	"id" text PRIMARY KEY NOT NULL,
	"org_id" text NOT NULL,
	"name" text NOT NULL,
	"cost_centre" text NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL
);
--> statement-breakpoint
CREATE TABLE "outbox" (
	"id" bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY (sequence name "outbox_id_seq" INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1 CACHE 1),
	"topic" text NOT NULL,
	"dedupe_key" text NOT NULL,
	"payload" jsonb NOT NULL,
	"available_at" timestamp with time zone DEFAULT now() NOT NULL,
	"attempts" integer DEFAULT 0 NOT NULL,
	"done_at" timestamp with time zone
);
--> statement-breakpoint
CREATE TABLE "org_price" (
	"id" text PRIMARY KEY NOT NULL,
	"org_id" text NOT NULL,
	"book_id" text NOT NULL,
	"discount_bp" integer DEFAULT 0 NOT NULL,
	"valid_from" timestamp with time zone NOT NULL,
	"valid_to" timestamp with time zone,
	CONSTRAINT "org_price_discount" CHECK ("org_price"."discount_bp" between 0 and 10000),
	CONSTRAINT "org_price_span" CHECK ("org_price"."valid_to" > "org_price"."valid_from")
);
--> statement-breakpoint
CREATE TABLE "price_book" (
	"id" text PRIMARY KEY NOT NULL,
	"name" text NOT NULL,
	"currency" text NOT NULL
);
--> statement-breakpoint
CREATE TABLE "price_version" (
	"id" text PRIMARY KEY NOT NULL,
	"book_id" text NOT NULL,
	"sku_id" text NOT NULL,
	"price_micros" bigint NOT NULL,
	"per_units" bigint NOT NULL,
	"tiers" jsonb,
	"valid_from" timestamp with time zone NOT NULL,
	"valid_to" timestamp with time zone,
	CONSTRAINT "price_not_negative" CHECK ("price_version"."price_micros" >= 0 and "price_version"."per_units" > 0),
	CONSTRAINT "price_span" CHECK ("price_version"."valid_to" > "price_version"."valid_from")
);
--> statement-breakpoint
CREATE TABLE "sku" (
	"id" text PRIMARY KEY NOT NULL,
	"model" text NOT NULL,
	"size_class" text NOT NULL,
	"quality" text DEFAULT 'any' NOT NULL,
	"priority" text DEFAULT 'any' NOT NULL,
	"unit" text NOT NULL
);
--> statement-breakpoint
CREATE TABLE "recon_run" (
	"id" text PRIMARY KEY NOT NULL,
	"started_at" timestamp with time zone DEFAULT now() NOT NULL,
	"scope" text NOT NULL,
	"differences" integer NOT NULL,
	"report" jsonb NOT NULL
);
--> statement-breakpoint
CREATE TABLE "statement" (
	"id" text PRIMARY KEY NOT NULL,
	"org_id" text NOT NULL,
	"team_id" text,
	"period_start" timestamp with time zone NOT NULL,
	"period_end" timestamp with time zone NOT NULL,
	"document" text NOT NULL,
	"sha256" text NOT NULL,
	"closed_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "statement_span" CHECK ("statement"."period_end" > "statement"."period_start")
);
--> statement-breakpoint
CREATE TABLE "dispute" (
	"id" text PRIMARY KEY NOT NULL,
	"org_id" text NOT NULL,
	"payment_intent" text NOT NULL,
	"amount_micros" bigint NOT NULL,
	"state" text NOT NULL,
	"opened_at" timestamp with time zone DEFAULT now() NOT NULL,
	"closed_at" timestamp with time zone
);
--> statement-breakpoint
CREATE TABLE "invoice" (
	"id" text PRIMARY KEY NOT NULL,
	"org_id" text NOT NULL,
	"period_start" timestamp with time zone NOT NULL,
	"period_end" timestamp with time zone NOT NULL,
	"is_metered" boolean DEFAULT false NOT NULL,
	"state" text NOT NULL,
	"amount_micros" bigint NOT NULL,
	"tax_micros" bigint DEFAULT 0 NOT NULL,
	"expected_micros" bigint,
	"lines_micros" bigint,
	"problem" text,
	"updated_at" timestamp with time zone DEFAULT now() NOT NULL
);
--> statement-breakpoint
CREATE TABLE "meter_report" (
	"id" text PRIMARY KEY NOT NULL,
	"org_id" text NOT NULL,
	"settlement_mode" text DEFAULT 'postpaid' NOT NULL,
	"meter" text NOT NULL,
	"hour" timestamp with time zone NOT NULL,
	"revision" integer NOT NULL,
	"channel" text NOT NULL,
	"quantity" bigint NOT NULL,
	"due_micros" bigint NOT NULL,
	"base_quantity" bigint NOT NULL,
	"base_micros" bigint NOT NULL,
	"identifier" text NOT NULL,
	"state" text NOT NULL,
	"attempts" integer DEFAULT 0 NOT NULL,
	"next_attempt_at" timestamp with time zone DEFAULT now() NOT NULL,
	"error" text,
	"suspect" boolean DEFAULT false NOT NULL,
	"sealed_at" timestamp with time zone DEFAULT now() NOT NULL,
	"accepted_at" timestamp with time zone,
	CONSTRAINT "meter_report_identifier_unique" UNIQUE("identifier"),
	CONSTRAINT "meter_report_postpaid" CHECK ("meter_report"."settlement_mode" = 'postpaid'),
	CONSTRAINT "meter_report_quantity" CHECK ("meter_report"."quantity" >= 0),
	CONSTRAINT "meter_report_meter" CHECK ("meter_report"."meter" in ('images', 'items'))
);
--> statement-breakpoint
CREATE TABLE "seal_progress" (
	"meter" text PRIMARY KEY NOT NULL,
	"sealed_to" timestamp with time zone NOT NULL
);
--> statement-breakpoint
CREATE TABLE "stripe_event" (
	"id" text PRIMARY KEY NOT NULL,
	"type" text NOT NULL,
	"payload" jsonb NOT NULL,
	"received_at" timestamp with time zone DEFAULT now() NOT NULL,
	"attempts" integer DEFAULT 0 NOT NULL,
	"next_attempt_at" timestamp with time zone DEFAULT now() NOT NULL,
	"applied_at" timestamp with time zone,
	"error" text
);
--> statement-breakpoint
CREATE TABLE "stripe_subscription" (
	"id" text PRIMARY KEY NOT NULL,
	"org_id" text NOT NULL,
	"settlement_mode" text DEFAULT 'postpaid' NOT NULL,
	"status" text NOT NULL,
	"metered_from" timestamp with time zone NOT NULL,
	"metered_to" timestamp with time zone,
	"updated_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "stripe_subscription_postpaid" CHECK ("stripe_subscription"."settlement_mode" = 'postpaid'),
	CONSTRAINT "stripe_subscription_span" CHECK ("stripe_subscription"."metered_to" >= "stripe_subscription"."metered_from")
);
--> statement-breakpoint
CREATE TABLE "topup" (
	"id" text PRIMARY KEY NOT NULL,
	"org_id" text NOT NULL,
	"amount_micros" bigint NOT NULL,
	"kind" text NOT NULL,
	"state" text NOT NULL,
	"checkout_session" text,
	"payment_intent" text,
	"failure_reason" text,
	"checked_at" timestamp with time zone,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"settled_at" timestamp with time zone,
	CONSTRAINT "topup_checkout_session_unique" UNIQUE("checkout_session"),
	CONSTRAINT "topup_payment_intent_unique" UNIQUE("payment_intent"),
	CONSTRAINT "topup_positive" CHECK ("topup"."amount_micros" > 0)
);
--> statement-breakpoint
CREATE TABLE "usage_correction" (
	"id" text PRIMARY KEY NOT NULL,
	"usage_event_id" text NOT NULL,
	"reason" text NOT NULL,
	"source_id" text NOT NULL,
	"org_id" text NOT NULL,
	"team_id" text NOT NULL,
	"key_id" text NOT NULL,
	"images" integer NOT NULL,
	"list_micros" bigint NOT NULL,
	"discount_micros" bigint NOT NULL,
	"net_micros" bigint NOT NULL,
	"credit_micros" bigint NOT NULL,
	"occurred_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "usage_correction_adds_up" CHECK ("usage_correction"."net_micros" = "usage_correction"."list_micros" - "usage_correction"."discount_micros")
);
--> statement-breakpoint
CREATE TABLE "usage_counter" (
	"org_id" text NOT NULL,
	"sku_id" text NOT NULL,
	"month_start" timestamp with time zone NOT NULL,
	"images" bigint NOT NULL,
	CONSTRAINT "usage_counter_org_id_sku_id_month_start_pk" PRIMARY KEY("org_id","sku_id","month_start")
);
--> statement-breakpoint
CREATE TABLE "usage_event" (
	"id" text PRIMARY KEY NOT NULL,
	"job_id" text NOT NULL,
	"idx" integer NOT NULL,
	"org_id" text NOT NULL,
	"team_id" text NOT NULL,
	"key_id" text NOT NULL,
	"sku_id" text NOT NULL,
	"price_version_id" text NOT NULL,
	"list_version_id" text NOT NULL,
	"org_price_id" text,
	"tier_position" bigint,
	"list_micros" bigint NOT NULL,
	"discount_micros" bigint NOT NULL,
	"net_micros" bigint NOT NULL,
	"credit_micros" bigint DEFAULT 0 NOT NULL,
	"occurred_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "usage_event_adds_up" CHECK ("usage_event"."net_micros" = "usage_event"."list_micros" - "usage_event"."discount_micros"),
	CONSTRAINT "usage_event_credit" CHECK ("usage_event"."credit_micros" between 0 and "usage_event"."net_micros")
);
--> statement-breakpoint
CREATE TABLE "webhook_attempt" (
	"id" text PRIMARY KEY NOT NULL,
	"delivery_id" text NOT NULL,
	"started_at" timestamp with time zone NOT NULL,
	"duration_ms" integer NOT NULL,
	"status_code" integer,
	"error" text
);
--> statement-breakpoint
CREATE TABLE "webhook_delivery" (
	"id" text PRIMARY KEY NOT NULL,
	"event_id" text NOT NULL,
	"org_id" text NOT NULL,
	"endpoint_id" text,
	"url" text NOT NULL,
	"state" text NOT NULL,
	"attempts" integer DEFAULT 0 NOT NULL,
	"next_attempt_at" timestamp with time zone DEFAULT now() NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"delivered_at" timestamp with time zone
);
--> statement-breakpoint
CREATE TABLE "webhook_endpoint" (
	"id" text PRIMARY KEY NOT NULL,
	"org_id" text NOT NULL,
	"url" text NOT NULL,
	"description" text,
	"event_types" text[] NOT NULL,
	"secret_version" integer DEFAULT 1 NOT NULL,
	"previous_secret_until" timestamp with time zone,
	"enabled" boolean DEFAULT true NOT NULL,
	"disabled_reason" text,
	"failing_since" timestamp with time zone,
	"deferred_until" timestamp with time zone,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"deleted_at" timestamp with time zone
);
--> statement-breakpoint
CREATE TABLE "webhook_event" (
	"id" text PRIMARY KEY NOT NULL,
	"org_id" text NOT NULL,
	"type" text NOT NULL,
	"subject_id" text NOT NULL,
	"payload" jsonb NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL
);
--> statement-breakpoint
ALTER TABLE "budget_alert" ADD CONSTRAINT "budget_alert_budget_id_budget_id_fk" FOREIGN KEY ("budget_id") REFERENCES "public"."budget"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "reservation" ADD CONSTRAINT "reservation_job_id_job_id_fk" FOREIGN KEY ("job_id") REFERENCES "public"."job"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "reservation" ADD CONSTRAINT "reservation_price_version_id_price_version_id_fk" FOREIGN KEY ("price_version_id") REFERENCES "public"."price_version"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "reservation" ADD CONSTRAINT "reservation_list_version_id_price_version_id_fk" FOREIGN KEY ("list_version_id") REFERENCES "public"."price_version"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "reservation" ADD CONSTRAINT "reservation_org_price_id_org_price_id_fk" FOREIGN KEY ("org_price_id") REFERENCES "public"."org_price"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "reservation_leg" ADD CONSTRAINT "reservation_leg_reservation_id_reservation_id_fk" FOREIGN KEY ("reservation_id") REFERENCES "public"."reservation"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "reservation_leg" ADD CONSTRAINT "reservation_leg_budget_id_budget_id_fk" FOREIGN KEY ("budget_id") REFERENCES "public"."budget"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "credit_burn" ADD CONSTRAINT "credit_burn_grant_id_credit_grant_id_fk" FOREIGN KEY ("grant_id") REFERENCES "public"."credit_grant"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "credit_burn" ADD CONSTRAINT "credit_burn_job_id_job_id_fk" FOREIGN KEY ("job_id") REFERENCES "public"."job"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "credit_grant" ADD CONSTRAINT "credit_grant_org_id_org_id_fk" FOREIGN KEY ("org_id") REFERENCES "public"."org"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "job" ADD CONSTRAINT "job_org_id_org_id_fk" FOREIGN KEY ("org_id") REFERENCES "public"."org"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "job" ADD CONSTRAINT "job_team_id_team_id_fk" FOREIGN KEY ("team_id") REFERENCES "public"."team"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "job" ADD CONSTRAINT "job_key_id_api_key_id_fk" FOREIGN KEY ("key_id") REFERENCES "public"."api_key"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "job_output" ADD CONSTRAINT "job_output_job_id_job_id_fk" FOREIGN KEY ("job_id") REFERENCES "public"."job"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "api_key" ADD CONSTRAINT "api_key_org_id_org_id_fk" FOREIGN KEY ("org_id") REFERENCES "public"."org"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "api_key" ADD CONSTRAINT "api_key_team_id_team_id_fk" FOREIGN KEY ("team_id") REFERENCES "public"."team"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "key_assignment" ADD CONSTRAINT "key_assignment_key_id_api_key_id_fk" FOREIGN KEY ("key_id") REFERENCES "public"."api_key"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "key_assignment" ADD CONSTRAINT "key_assignment_team_id_team_id_fk" FOREIGN KEY ("team_id") REFERENCES "public"."team"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "ledger_account" ADD CONSTRAINT "ledger_account_team_id_team_id_fk" FOREIGN KEY ("team_id") REFERENCES "public"."team"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "ledger_balance" ADD CONSTRAINT "ledger_balance_account_id_ledger_account_id_fk" FOREIGN KEY ("account_id") REFERENCES "public"."ledger_account"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "ledger_entry" ADD CONSTRAINT "ledger_entry_txn_id_ledger_txn_id_fk" FOREIGN KEY ("txn_id") REFERENCES "public"."ledger_txn"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "ledger_entry" ADD CONSTRAINT "ledger_entry_account_id_ledger_account_id_fk" FOREIGN KEY ("account_id") REFERENCES "public"."ledger_account"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "ledger_line" ADD CONSTRAINT "ledger_line_org_id_org_id_fk" FOREIGN KEY ("org_id") REFERENCES "public"."org"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "ledger_line" ADD CONSTRAINT "ledger_line_entry_id_ledger_entry_id_fk" FOREIGN KEY ("entry_id") REFERENCES "public"."ledger_entry"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "team" ADD CONSTRAINT "team_org_id_org_id_fk" FOREIGN KEY ("org_id") REFERENCES "public"."org"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "org_price" ADD CONSTRAINT "org_price_org_id_org_id_fk" FOREIGN KEY ("org_id") REFERENCES "public"."org"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "org_price" ADD CONSTRAINT "org_price_book_id_price_book_id_fk" FOREIGN KEY ("book_id") REFERENCES "public"."price_book"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "price_version" ADD CONSTRAINT "price_version_book_id_price_book_id_fk" FOREIGN KEY ("book_id") REFERENCES "public"."price_book"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "price_version" ADD CONSTRAINT "price_version_sku_id_sku_id_fk" FOREIGN KEY ("sku_id") REFERENCES "public"."sku"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "statement" ADD CONSTRAINT "statement_org_id_org_id_fk" FOREIGN KEY ("org_id") REFERENCES "public"."org"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "statement" ADD CONSTRAINT "statement_team_id_team_id_fk" FOREIGN KEY ("team_id") REFERENCES "public"."team"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "dispute" ADD CONSTRAINT "dispute_org_id_org_id_fk" FOREIGN KEY ("org_id") REFERENCES "public"."org"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "invoice" ADD CONSTRAINT "invoice_org_id_org_id_fk" FOREIGN KEY ("org_id") REFERENCES "public"."org"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "meter_report" ADD CONSTRAINT "meter_report_postpaid_org" FOREIGN KEY ("org_id","settlement_mode") REFERENCES "public"."org"("id","settlement_mode") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "stripe_subscription" ADD CONSTRAINT "stripe_subscription_postpaid_org" FOREIGN KEY ("org_id","settlement_mode") REFERENCES "public"."org"("id","settlement_mode") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "topup" ADD CONSTRAINT "topup_org_id_org_id_fk" FOREIGN KEY ("org_id") REFERENCES "public"."org"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "usage_correction" ADD CONSTRAINT "usage_correction_usage_event_id_usage_event_id_fk" FOREIGN KEY ("usage_event_id") REFERENCES "public"."usage_event"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "usage_correction" ADD CONSTRAINT "usage_correction_team_id_team_id_fk" FOREIGN KEY ("team_id") REFERENCES "public"."team"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "usage_counter" ADD CONSTRAINT "usage_counter_org_id_org_id_fk" FOREIGN KEY ("org_id") REFERENCES "public"."org"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "usage_counter" ADD CONSTRAINT "usage_counter_sku_id_sku_id_fk" FOREIGN KEY ("sku_id") REFERENCES "public"."sku"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "usage_event" ADD CONSTRAINT "usage_event_job_id_job_id_fk" FOREIGN KEY ("job_id") REFERENCES "public"."job"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "usage_event" ADD CONSTRAINT "usage_event_sku_id_sku_id_fk" FOREIGN KEY ("sku_id") REFERENCES "public"."sku"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "usage_event" ADD CONSTRAINT "usage_event_price_version_id_price_version_id_fk" FOREIGN KEY ("price_version_id") REFERENCES "public"."price_version"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "usage_event" ADD CONSTRAINT "usage_event_list_version_id_price_version_id_fk" FOREIGN KEY ("list_version_id") REFERENCES "public"."price_version"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "usage_event" ADD CONSTRAINT "usage_event_org_price_id_org_price_id_fk" FOREIGN KEY ("org_price_id") REFERENCES "public"."org_price"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "webhook_attempt" ADD CONSTRAINT "webhook_attempt_delivery_id_webhook_delivery_id_fk" FOREIGN KEY ("delivery_id") REFERENCES "public"."webhook_delivery"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "webhook_delivery" ADD CONSTRAINT "webhook_delivery_event_id_webhook_event_id_fk" FOREIGN KEY ("event_id") REFERENCES "public"."webhook_event"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "webhook_delivery" ADD CONSTRAINT "webhook_delivery_endpoint_id_webhook_endpoint_id_fk" FOREIGN KEY ("endpoint_id") REFERENCES "public"."webhook_endpoint"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "webhook_endpoint" ADD CONSTRAINT "webhook_endpoint_org_id_org_id_fk" FOREIGN KEY ("org_id") REFERENCES "public"."org"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "webhook_event" ADD CONSTRAINT "webhook_event_org_id_org_id_fk" FOREIGN KEY ("org_id") REFERENCES "public"."org"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
CREATE UNIQUE INDEX "budget_period_once" ON "budget" USING btree ("scope","scope_id","kind","period_start");--> statement-breakpoint
CREATE UNIQUE INDEX "reservation_job_once" ON "reservation" USING btree ("job_id");--> statement-breakpoint
CREATE INDEX "reservation_held_by_expiry" ON "reservation" USING btree ("expires_at") WHERE "reservation"."state" = 'held';--> statement-breakpoint
CREATE INDEX "credit_burn_by_job" ON "credit_burn" USING btree ("job_id");--> statement-breakpoint
CREATE INDEX "credit_grant_open" ON "credit_grant" USING btree ("org_id","priority","expires_at") WHERE "credit_grant"."remaining_micros" > 0;--> statement-breakpoint
CREATE UNIQUE INDEX "job_idempotency_once" ON "job" USING btree ("key_id","idempotency_key");--> statement-breakpoint
CREATE INDEX "job_by_org" ON "job" USING btree ("org_id","id");--> statement-breakpoint
CREATE INDEX "job_unfinished" ON "job" USING btree ("state","lease_until") WHERE "job"."state" in ('accepted', 'queued', 'running');--> statement-breakpoint
CREATE UNIQUE INDEX "api_key_hash_once" ON "api_key" USING btree ("hash");--> statement-breakpoint
CREATE INDEX "api_key_by_org" ON "api_key" USING btree ("org_id");--> statement-breakpoint
CREATE UNIQUE INDEX "key_assignment_once" ON "key_assignment" USING btree ("key_id","valid_from","recorded_at");--> statement-breakpoint
CREATE UNIQUE INDEX "ledger_account_once" ON "ledger_account" USING btree (coalesce("org_id", ''),coalesce("team_id", ''),"type");--> statement-breakpoint
CREATE INDEX "ledger_entry_by_txn" ON "ledger_entry" USING btree ("txn_id");--> statement-breakpoint
CREATE INDEX "ledger_entry_by_account" ON "ledger_entry" USING btree ("account_id","xid");--> statement-breakpoint
CREATE UNIQUE INDEX "ledger_txn_source_once" ON "ledger_txn" USING btree ("kind","source_id");--> statement-breakpoint
CREATE UNIQUE INDEX "team_cost_centre_once" ON "team" USING btree ("org_id","cost_centre");--> statement-breakpoint
CREATE UNIQUE INDEX "outbox_once" ON "outbox" USING btree ("topic","dedupe_key");--> statement-breakpoint
CREATE INDEX "outbox_due" ON "outbox" USING btree ("available_at") WHERE "outbox"."done_at" is null;--> statement-breakpoint
CREATE INDEX "outbox_dispatched" ON "outbox" USING btree ("done_at") WHERE "outbox"."topic" = 'job.dispatch' and "outbox"."done_at" is not null;--> statement-breakpoint
CREATE INDEX "org_price_by_org" ON "org_price" USING btree ("org_id","valid_from");--> statement-breakpoint
CREATE UNIQUE INDEX "price_version_start_once" ON "price_version" USING btree ("book_id","sku_id","valid_from");--> statement-breakpoint
CREATE UNIQUE INDEX "sku_once" ON "sku" USING btree ("model","size_class","quality","priority");--> statement-breakpoint
CREATE UNIQUE INDEX "statement_once" ON "statement" USING btree ("org_id",coalesce("team_id", ''),"period_start");--> statement-breakpoint
CREATE INDEX "invoice_by_org" ON "invoice" USING btree ("org_id","period_start");--> statement-breakpoint
CREATE INDEX "invoice_drafts" ON "invoice" USING btree ("updated_at") WHERE "invoice"."state" in ('draft', 'held');--> statement-breakpoint
CREATE UNIQUE INDEX "meter_report_revision_once" ON "meter_report" USING btree ("org_id","meter","hour","revision");--> statement-breakpoint
CREATE UNIQUE INDEX "meter_report_one_in_flight" ON "meter_report" USING btree ("org_id","meter","hour") WHERE "meter_report"."state" in ('sealed', 'sending', 'unknown');--> statement-breakpoint
CREATE INDEX "meter_report_due" ON "meter_report" USING btree ("next_attempt_at") WHERE "meter_report"."state" in ('sealed', 'sending', 'unknown');--> statement-breakpoint
CREATE INDEX "meter_report_unconfirmed" ON "meter_report" USING btree ("next_attempt_at") WHERE "meter_report"."state" = 'accepted';--> statement-breakpoint
CREATE INDEX "stripe_event_due" ON "stripe_event" USING btree ("next_attempt_at") WHERE "stripe_event"."applied_at" is null;--> statement-breakpoint
CREATE UNIQUE INDEX "stripe_subscription_one_live" ON "stripe_subscription" USING btree ("org_id") WHERE "stripe_subscription"."metered_to" is null;--> statement-breakpoint
CREATE INDEX "stripe_subscription_by_org" ON "stripe_subscription" USING btree ("org_id","metered_from");--> statement-breakpoint
CREATE INDEX "topup_by_org" ON "topup" USING btree ("org_id","id");--> statement-breakpoint
CREATE UNIQUE INDEX "topup_auto_once" ON "topup" USING btree ("org_id") WHERE "topup"."kind" = 'auto' and "topup"."state" = 'pending';--> statement-breakpoint
CREATE UNIQUE INDEX "usage_correction_once" ON "usage_correction" USING btree ("usage_event_id","reason","source_id");--> statement-breakpoint
CREATE UNIQUE INDEX "usage_correction_refund_once" ON "usage_correction" USING btree ("usage_event_id") WHERE "usage_correction"."reason" = 'refund';--> statement-breakpoint
CREATE INDEX "usage_correction_by_org" ON "usage_correction" USING btree ("org_id","occurred_at");--> statement-breakpoint
CREATE UNIQUE INDEX "usage_event_image_once" ON "usage_event" USING btree ("job_id","idx");--> statement-breakpoint
CREATE INDEX "usage_event_by_org" ON "usage_event" USING btree ("org_id","occurred_at");--> statement-breakpoint
CREATE INDEX "webhook_attempt_by_delivery" ON "webhook_attempt" USING btree ("delivery_id","started_at");--> statement-breakpoint
CREATE INDEX "webhook_delivery_due" ON "webhook_delivery" USING btree ("next_attempt_at") WHERE "webhook_delivery"."state" = 'pending';--> statement-breakpoint
CREATE INDEX "webhook_delivery_by_org" ON "webhook_delivery" USING btree ("org_id","id");--> statement-breakpoint
CREATE INDEX "webhook_delivery_by_event" ON "webhook_delivery" USING btree ("event_id");--> statement-breakpoint
CREATE INDEX "webhook_endpoint_by_org" ON "webhook_endpoint" USING btree ("org_id");--> statement-breakpoint
CREATE INDEX "webhook_endpoint_deferred" ON "webhook_endpoint" USING btree ("deferred_until") WHERE "webhook_endpoint"."deferred_until" is not null;--> statement-breakpoint
CREATE UNIQUE INDEX "webhook_event_once" ON "webhook_event" USING btree ("type","subject_id");--> statement-breakpoint
CREATE INDEX "webhook_event_by_time" ON "webhook_event" USING btree ("created_at");