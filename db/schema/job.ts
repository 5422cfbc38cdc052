import { sql } from 'drizzle-orm'
import {
  bigint,
  check,
  customType,
  index,
  integer,
  jsonb,
  pgTable,
  primaryKey,
  real,
  text,
  timestamp,
  uniqueIndex,
  varchar,
} from 'drizzle-orm/pg-core'
import type { StoredInput } from '../input-images.ts'
import { UNBILLED_REASONS } from '../text-terms.ts'
import type { TextCheck, TextTerms } from '../text-terms.ts'

const bytea = customType<{ data: Uint8Array }>({ dataType: () => 'bytea' })

/** What a worker last announced about the model it serves; the gateway's size rules come from here. */
export const model = pgTable('model', {
  id: text().primaryKey(),
  /** `SizeRules` of the checkpoint, snake_case as in its serving file. */
  size: jsonb().notNull(),
  steps: integer().notNull(),
  guidanceScale: real('guidance_scale').notNull(),
  /** `{ max_count }`: how many pictures a job may work from; null where the checkpoint, or its worker, takes none. */
  images: jsonb(),
  notice: text(),
  weightsHash: text('weights_hash').notNull(),
  announcedAt: timestamp('announced_at', { withTimezone: true }).notNull().defaultNow(),
})

/**
 * The workers that said of themselves lately that they are there, also those with nothing to do. Hints for people and
 * monitors alone: no job depends on a row of it.
 */
export const worker = pgTable('worker', {
  id: text().primaryKey(),
  slots: integer().notNull(),
  /** Jobs in hand. */
  busy: integer().notNull(),
  startedAt: timestamp('started_at', { withTimezone: true }).notNull().defaultNow(),
  seenAt: timestamp('seen_at', { withTimezone: true }).notNull().defaultNow(),
})

/**
 * One request for n images: the only truth about its state. The queue carries the id and nothing else.
 *
 * `attempt` is the fence: every write by a worker names the attempt that it claimed and touches no row
 * when a newer one exists. `failed_attempts` counts crashes and failures; a job handed back on a
 * graceful stop is not one.
 *
 * Tables that grow with every job name their parents without foreign keys: the functions that write them have just
 * looked at the parents, which are never removed, and a check would lock a row that all jobs of an org share.
 */
export const job = pgTable(
  'job',
  {
    id: text().primaryKey(),
    orgId: text('org_id').notNull(),
    teamId: text('team_id').notNull(),
    keyId: text('key_id').notNull(),
    idempotencyKey: text('idempotency_key'),
    requestHash: text('request_hash').notNull(),
    dialect: text({ enum: ['native', 'zai', 'openai'] }).notNull(),
    model: text().notNull(),
    /** Null once the caller has deleted the job. */
    prompt: text(),
    width: integer().notNull(),
    height: integer().notNull(),
    n: integer().notNull(),
    quality: text().notNull().default('hd'),
    /** `batch`: cheaper where the price book says so, and may take a day. */
    priority: text({ enum: ['standard', 'batch'] })
      .notNull()
      .default('standard'),
    seed: bigint({ mode: 'number' }).notNull(),
    steps: integer(),
    guidanceScale: real('guidance_scale'),
    format: text({ enum: ['png', 'webp', 'jpeg', 'avif'] }).notNull(),
    /** What the caller sent beside the above and wants back: request_id, user_id, metadata. */
    callerFields: jsonb('caller_fields')
      .notNull()
      .default(sql`'{}'::jsonb`),
    webhookUrl: text('webhook_url'),
    /** The id of the request that made it, by which the logs of gateway and workers are found. */
    requestId: text('request_id'),
    /** Where its spans belong: `traceparent` of W3C Trace Context; null where nobody traces. */
    traceParent: varchar('trace_parent', { length: 55 }),
    /** The pictures to work from, by index; null for a job from text alone and once the caller has deleted it. */
    inputImages: jsonb('input_images').$type<StoredInput[]>(),
    /** What is done about the texts in the pictures; null: nothing. */
    textTerms: jsonb('text_terms').$type<TextTerms>(),
    state: text({
      enum: ['accepted', 'queued', 'running', 'succeeded', 'failed', 'canceled', 'expired'],
    }).notNull(),
    attempt: integer().notNull().default(0),
    failedAttempts: integer('failed_attempts').notNull().default(0),
    workerId: text('worker_id'),
    leaseUntil: timestamp('lease_until', { withTimezone: true }),
    /** `{ stage, step, total, image }` as the worker last reported. */
    progress: jsonb(),
    /** Set by callers alone: what ends late was not canceled. */
    cancelRequestedAt: timestamp('cancel_requested_at', { withTimezone: true }),
    errorCode: text('error_code'),
    errorMessage: text('error_message'),
    /** Why the result is billed or not; set with the terminal state. */
    billedReason: text('billed_reason'),
    /** `{ gpu_seconds, timings_ms, weights_hash, steps, guidance_scale, tokens }` of the finished job. */
    runInfo: jsonb('run_info'),
    createdAt: timestamp('created_at', { withTimezone: true }).notNull().defaultNow(),
    dispatchedAt: timestamp('dispatched_at', { withTimezone: true }),
    startedAt: timestamp('started_at', { withTimezone: true }),
    finishedAt: timestamp('finished_at', { withTimezone: true }),
    /** After this instant an unfinished job is expired and its hold released. */
    deadlineAt: timestamp('deadline_at', { withTimezone: true }).notNull(),
    deletedAt: timestamp('deleted_at', { withTimezone: true }),
  },
  (t) => [
    uniqueIndex('job_idempotency_once')
      .on(t.keyId, t.idempotencyKey)
      .where(sql`${t.idempotencyKey} is not null`),
    // Listing pages walk an org's jobs newest first; ids are time-ordered.
    index('job_by_org').on(t.orgId, t.id),
    // The sweep reads only what is unfinished, a tiny part of the table. No column of these changes before the
    // job ends, so that dispatch, claim and every beat stay off the indexes.
    index('job_open_by_deadline')
      .on(t.deadlineAt)
      .where(sql`${t.finishedAt} is null`),
    index('job_open_by_age')
      .on(t.createdAt)
      .where(sql`${t.finishedAt} is null`),
    check('job_n_positive', sql`${t.n} between 1 and 10`),
  ],
)

/** One delivered picture. Present only once its bytes are stored, under a key that no other job ever has. */
export const jobOutput = pgTable(
  'job_output',
  {
    jobId: text('job_id').notNull(),
    idx: integer().notNull(),
    objectKey: text('object_key').notNull(),
    sha256: text().notNull(),
    sizeBytes: integer('size_bytes').notNull(),
    contentType: text('content_type').notNull(),
    width: integer().notNull(),
    height: integer().notNull(),
    seed: bigint({ mode: 'number' }).notNull(),
    /** What was read in it; null where nobody asked. */
    textCheck: jsonb('text_check').$type<TextCheck>(),
    /** Why this picture has no usage line although it is delivered; null: it is charged when its job ends. */
    unbilledReason: text('unbilled_reason', { enum: UNBILLED_REASONS }),
    storedAt: timestamp('stored_at', { withTimezone: true }).notNull().defaultNow(),
    /** Set by the deletion call before it removes the object; from then on nobody is served. */
    deletedAt: timestamp('deleted_at', { withTimezone: true }),
  },
  (t) => [primaryKey({ columns: [t.jobId, t.idx] })],
)

/**
 * The visual tokens of a picture that is not finished, so that another attempt begins at the painter. They say what the
 * picture shows: the settlement that ends the job removes them in its own transaction.
 */
export const jobTokens = pgTable(
  'job_tokens',
  {
    jobId: text('job_id').notNull(),
    idx: integer().notNull(),
    /** Of the model that wrote them; to another one they mean nothing. */
    weightsHash: text('weights_hash').notNull(),
    /** One int32, little-endian, per cell of the layout, row-major. */
    tokens: bytea().notNull(),
  },
  (t) => [primaryKey({ columns: [t.jobId, t.idx] })],
)
