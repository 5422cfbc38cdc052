import { sql } from 'drizzle-orm'
import {
  bigint,
  boolean,
  check,
  foreignKey,
  index,
  integer,
  jsonb,
  pgTable,
  text,
  timestamp,
  uniqueIndex,
} from 'drizzle-orm/pg-core'
import { org } from './org.ts'

/** Every event Stripe sent, stored by its id before anything is done with it. */
export const stripeEvent = pgTable(
  'stripe_event',
  {
    id: text().primaryKey(),
    type: text().notNull(),
    payload: jsonb().notNull(),
    receivedAt: timestamp('received_at', { withTimezone: true }).notNull().defaultNow(),
    attempts: integer().notNull().default(0),
    nextAttemptAt: timestamp('next_attempt_at', { withTimezone: true }).notNull().defaultNow(),
    appliedAt: timestamp('applied_at', { withTimezone: true }),
    error: text(),
  },
  (t) => [
    index('stripe_event_due')
      .on(t.nextAttemptAt)
      .where(sql`${t.appliedAt} is null`),
  ],
)

/** A payment ahead: by Checkout, or off-session when the balance runs low. Credited once per payment intent. */
export const topup = pgTable(
  'topup',
  {
    id: text().primaryKey(),
    orgId: text('org_id')
      .notNull()
      .references(() => org.id),
    amountMicros: bigint('amount_micros', { mode: 'bigint' }).notNull(),
    kind: text({ enum: ['checkout', 'auto'] }).notNull(),
    state: text({ enum: ['pending', 'paid', 'failed', 'expired'] }).notNull(),
    checkoutSession: text('checkout_session').unique(),
    paymentIntent: text('payment_intent').unique(),
    failureReason: text('failure_reason'),
    /** When Stripe was last asked for it because no news came. */
    checkedAt: timestamp('checked_at', { withTimezone: true }),
    createdAt: timestamp('created_at', { withTimezone: true }).notNull().defaultNow(),
    settledAt: timestamp('settled_at', { withTimezone: true }),
  },
  (t) => [
    index('topup_by_org').on(t.orgId, t.id),
    // One automatic payment at a time, or a burst of charges would start several.
    uniqueIndex('topup_auto_once')
      .on(t.orgId)
      .where(sql`${t.kind} = 'auto' and ${t.state} = 'pending'`),
    check('topup_positive', sql`${t.amountMicros} > 0`),
  ],
)

/**
 * A metered subscription at Stripe, as last read from there. Usage from `metered_from` to `metered_to`, both whole
 * hours, is told to the meter; usage outside any such span is invoiced as items, so nothing is billed on two ways.
 */
export const stripeSubscription = pgTable(
  'stripe_subscription',
  {
    /** Stripe's id. */
    id: text().primaryKey(),
    orgId: text('org_id').notNull(),
    settlementMode: text('settlement_mode').notNull().default('postpaid'),
    /** Stripe's own word. */
    status: text().notNull(),
    meteredFrom: timestamp('metered_from', { withTimezone: true }).notNull(),
    /** Null while it lives. */
    meteredTo: timestamp('metered_to', { withTimezone: true }),
    updatedAt: timestamp('updated_at', { withTimezone: true }).notNull().defaultNow(),
  },
  (t) => [
    uniqueIndex('stripe_subscription_one_live')
      .on(t.orgId)
      .where(sql`${t.meteredTo} is null`),
    index('stripe_subscription_by_org').on(t.orgId, t.meteredFrom),
    foreignKey({
      name: 'stripe_subscription_postpaid_org',
      columns: [t.orgId, t.settlementMode],
      foreignColumns: [org.id, org.settlementMode],
    }),
    check('stripe_subscription_postpaid', sql`${t.settlementMode} = 'postpaid'`),
    check('stripe_subscription_span', sql`${t.meteredTo} >= ${t.meteredFrom}`),
  ],
)

/** Up to when the usage of every org was looked at for a meter. */
export const sealProgress = pgTable('seal_progress', {
  meter: text().primaryKey(),
  sealedTo: timestamp('sealed_to', { withTimezone: true }).notNull(),
})

/**
 * The usage of one org and window as told to Stripe: a total, so that telling it again changes nothing. A change is
 * a new revision. Only postpaid orgs can have one: what is paid ahead must never be invoiced.
 *
 * Windows of the meter `images` are hours; those of `items` are calendar months of orgs without a subscription. A
 * correction that a meter takes no more goes on as an invoice item of the difference to what was told before.
 */
export const meterReport = pgTable(
  'meter_report',
  {
    id: text().primaryKey(),
    orgId: text('org_id').notNull(),
    settlementMode: text('settlement_mode').notNull().default('postpaid'),
    meter: text().notNull(),
    hour: timestamp({ withTimezone: true }).notNull(),
    revision: integer().notNull(),
    channel: text({ enum: ['meter', 'invoice_item'] }).notNull(),
    quantity: bigint({ mode: 'bigint' }).notNull(),
    /** What the org owes for the window: net less promotional credit. */
    dueMicros: bigint('due_micros', { mode: 'bigint' }).notNull(),
    /** Quantity and due of the revision that Stripe holds so far; an invoice item carries the difference. */
    baseQuantity: bigint('base_quantity', { mode: 'bigint' }).notNull(),
    baseMicros: bigint('base_micros', { mode: 'bigint' }).notNull(),
    /** Of the meter event, and the idempotency key of its request. */
    identifier: text().notNull().unique(),
    state: text({
      enum: ['sealed', 'sending', 'accepted', 'unknown', 'failed', 'confirmed', 'superseded'],
    }).notNull(),
    attempts: integer().notNull().default(0),
    nextAttemptAt: timestamp('next_attempt_at', { withTimezone: true }).notNull().defaultNow(),
    error: text(),
    /** Stripe named it in an error report: it is compared without waiting for their summaries to catch up. */
    suspect: boolean().notNull().default(false),
    sealedAt: timestamp('sealed_at', { withTimezone: true }).notNull().defaultNow(),
    acceptedAt: timestamp('accepted_at', { withTimezone: true }),
  },
  (t) => [
    uniqueIndex('meter_report_revision_once').on(t.orgId, t.meter, t.hour, t.revision),
    // Two revisions on their way at once could arrive in the wrong order.
    uniqueIndex('meter_report_one_in_flight')
      .on(t.orgId, t.meter, t.hour)
      .where(sql`${t.state} in ('sealed', 'sending', 'unknown')`),
    index('meter_report_due')
      .on(t.nextAttemptAt)
      .where(sql`${t.state} in ('sealed', 'sending', 'unknown')`),
    index('meter_report_unconfirmed')
      .on(t.nextAttemptAt)
      .where(sql`${t.state} = 'accepted'`),
    foreignKey({
      name: 'meter_report_postpaid_org',
      columns: [t.orgId, t.settlementMode],
      foreignColumns: [org.id, org.settlementMode],
    }),
    check('meter_report_postpaid', sql`${t.settlementMode} = 'postpaid'`),
    check('meter_report_quantity', sql`${t.quantity} >= 0`),
    check('meter_report_meter', sql`${t.meter} in ('images', 'items')`),
  ],
)

/** What Stripe invoices an org, as last read from there. */
export const invoice = pgTable(
  'invoice',
  {
    /** Stripe's id. */
    id: text().primaryKey(),
    orgId: text('org_id')
      .notNull()
      .references(() => org.id),
    periodStart: timestamp('period_start', { withTimezone: true }).notNull(),
    periodEnd: timestamp('period_end', { withTimezone: true }).notNull(),
    /** Whether it bills metered usage, of just this period; a change of that usage then needs another invoice. */
    isMetered: boolean('is_metered').notNull().default(false),
    state: text({
      enum: ['draft', 'held', 'open', 'paid', 'void', 'uncollectible'],
    }).notNull(),
    /** Without tax. */
    amountMicros: bigint('amount_micros', { mode: 'bigint' }).notNull(),
    taxMicros: bigint('tax_micros', { mode: 'bigint' })
      .notNull()
      .default(sql`0`),
    /** What our rows say for the lines that are ours, when it was last compared, and what those lines say. */
    expectedMicros: bigint('expected_micros', { mode: 'bigint' }),
    linesMicros: bigint('lines_micros', { mode: 'bigint' }),
    /** Why it is held, or what is wrong with it. */
    problem: text(),
    updatedAt: timestamp('updated_at', { withTimezone: true }).notNull().defaultNow(),
  },
  (t) => [
    index('invoice_by_org').on(t.orgId, t.periodStart),
    index('invoice_drafts')
      .on(t.updatedAt)
      .where(sql`${t.state} in ('draft', 'held')`),
  ],
)

/** A payment whose owner has gone to the bank. The org is frozen while it is open. */
export const dispute = pgTable('dispute', {
  /** Stripe's id. */
  id: text().primaryKey(),
  orgId: text('org_id')
    .notNull()
    .references(() => org.id),
  paymentIntent: text('payment_intent').notNull(),
  amountMicros: bigint('amount_micros', { mode: 'bigint' }).notNull(),
  state: text({ enum: ['open', 'won', 'lost'] }).notNull(),
  openedAt: timestamp('opened_at', { withTimezone: true }).notNull().defaultNow(),
  closedAt: timestamp('closed_at', { withTimezone: true }),
})
