import { sql } from 'drizzle-orm'
import {
  boolean,
  index,
  integer,
  jsonb,
  pgTable,
  text,
  timestamp,
  uniqueIndex,
} from 'drizzle-orm/pg-core'
import { org } from './org.ts'

/** Where an org wants its events. The signing secret is derived from the server's pepper, not stored. */
export const webhookEndpoint = pgTable(
  'webhook_endpoint',
  {
    id: text().primaryKey(),
    orgId: text('org_id')
      .notNull()
      .references(() => org.id),
    url: text().notNull(),
    description: text(),
    /** Event types wanted; empty = all. */
    eventTypes: text('event_types').array().notNull(),
    secretVersion: integer('secret_version').notNull().default(1),
    /** While set, messages are signed with the previous version too. */
    previousSecretUntil: timestamp('previous_secret_until', { withTimezone: true }),
    enabled: boolean().notNull().default(true),
    disabledReason: text('disabled_reason'),
    /** First failure since the last success; five days of it disable the endpoint. */
    failingSince: timestamp('failing_since', { withTimezone: true }),
    /** Its receiver is overloaded: until then nothing is sent to it. */
    deferredUntil: timestamp('deferred_until', { withTimezone: true }),
    createdAt: timestamp('created_at', { withTimezone: true }).notNull().defaultNow(),
    deletedAt: timestamp('deleted_at', { withTimezone: true }),
  },
  (t) => [
    index('webhook_endpoint_by_org').on(t.orgId),
    index('webhook_endpoint_deferred')
      .on(t.deferredUntil)
      .where(sql`${t.deferredUntil} is not null`),
  ],
)

/** Something that happened, once. Written in the transaction that made it true. */
export const webhookEvent = pgTable(
  'webhook_event',
  {
    id: text().primaryKey(),
    orgId: text('org_id').notNull(),
    type: text().notNull(),
    /** What the event is about: a job id for `job.*`. */
    subjectId: text('subject_id').notNull(),
    payload: jsonb().notNull(),
    createdAt: timestamp('created_at', { withTimezone: true }).notNull().defaultNow(),
  },
  (t) => [
    uniqueIndex('webhook_event_once').on(t.type, t.subjectId),
    index('webhook_event_by_time').on(t.createdAt),
  ],
)

/** One event on its way to one place: a registered endpoint or the URL given with a job. */
export const webhookDelivery = pgTable(
  'webhook_delivery',
  {
    id: text().primaryKey(),
    eventId: text('event_id')
      .notNull()
      .references(() => webhookEvent.id),
    orgId: text('org_id').notNull(),
    endpointId: text('endpoint_id').references(() => webhookEndpoint.id),
    url: text().notNull(),
    state: text({ enum: ['pending', 'delivered', 'failed', 'canceled'] }).notNull(),
    attempts: integer().notNull().default(0),
    nextAttemptAt: timestamp('next_attempt_at', { withTimezone: true }).notNull().defaultNow(),
    createdAt: timestamp('created_at', { withTimezone: true }).notNull().defaultNow(),
    deliveredAt: timestamp('delivered_at', { withTimezone: true }),
  },
  (t) => [
    index('webhook_delivery_due')
      .on(t.nextAttemptAt)
      .where(sql`${t.state} = 'pending'`),
    index('webhook_delivery_by_org').on(t.orgId, t.id),
    index('webhook_delivery_by_event').on(t.eventId),
  ],
)

/** The delivery log: one row per HTTP attempt. */
export const webhookAttempt = pgTable(
  'webhook_attempt',
  {
    id: text().primaryKey(),
    deliveryId: text('delivery_id')
      .notNull()
      .references(() => webhookDelivery.id),
    startedAt: timestamp('started_at', { withTimezone: true }).notNull(),
    durationMs: integer('duration_ms').notNull(),
    /** Null when no response came. */
    statusCode: integer('status_code'),
    error: text(),
  },
  (t) => [index('webhook_attempt_by_delivery').on(t.deliveryId, t.startedAt)],
)
