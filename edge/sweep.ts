import type { StripeDeps } from '../billing/stripe/client.ts'
import { runStripe } from '../billing/stripe/run.ts'
import { foldBalances } from '../billing/balances.ts'
import { expireOverdue } from '../billing/expire.ts'
import { INPUT_LIFE_SECONDS } from '../db/input-images.ts'
import { restageDispatch, takeDueDispatches } from '../db/outbox.ts'
import { pruneDispatches, pruneWebhookLog } from '../db/retention.ts'
import { claimDueDeliveries, postponeDeferred } from '../db/webhook-attempts.ts'
import type { ClaimedDelivery } from '../db/webhook-attempts.ts'
import { pruneWorkers } from '../db/workers.ts'
import { deliver } from './deliver.ts'
import type { DeliverDeps } from './deliver.ts'
import type { DispatchQueue } from './enqueue.ts'
import { publishFleetDue } from './fleet-metrics.ts'
import type { PublishFleet } from './fleet-metrics.ts'
import type { ObjectStore } from './objects.ts'

export interface SweepDeps extends DeliverDeps {
  queue: DispatchQueue
  objects: Pick<ObjectStore, 'removeOldInputs'>
  stripe?: StripeDeps
  /** Absent where nobody scales a fleet by what waits. */
  publishFleet?: PublishFleet
}

/** Receivers served at once by one process; slow ones hold a place each, not the line. */
const DELIVERY_SLOTS = 16
/** Places that one org may hold at once, give or take one: its slow receivers are its own trouble. */
const MAX_DELIVERIES_PER_ORG = 4
/** Bound on one call's deliveries; what is left is due again at the next call. */
const MAX_DELIVERIES_PER_SLOT = 25
/** Longer than an attempt (15 s) with its two database calls; after it a delivery counts as lost by its taker. */
const DELIVERY_LEASE_SECONDS = 60
/** Over which the deliveries of an endpoint return after its pause; all at once would overload it again. */
const PAUSE_SPREAD_SECONDS = 30
/** Bound on one statement; the next call moves more. */
const POSTPONE_LIMIT = 500
/** Messages per call; the queue batches them. */
const DISPATCH_LIMIT = 200
/** The process that wrote a message sends it itself right away; younger ones are left to it. */
const DISPATCH_GRACE_SECONDS = 2
const EXPIRE_LIMIT = 100
/**
 * A job that waited this long without a worker gets a second message, in case the queue lost the first. In
 * a long backlog that doubles messages once per quarter of an hour, which workers drop unseen.
 */
const REDISPATCH_AFTER_SECONDS = 900
const REDISPATCH_LIMIT = 200
/** Sent messages are of use to whoever looks for a job that went astray, for about this long. */
const KEEP_DISPATCHES_SECONDS = 7 * 86_400
/** Events, deliveries and attempts: a month to find out what a receiver got, and to send it once more. */
const KEEP_WEBHOOK_LOG_SECONDS = 30 * 86_400
/** A worker that was silent for so long is not coming back under its old name. */
const KEEP_WORKERS_SECONDS = 86_400
/** Ledger entries in one statement: 40 ms on two busy cores, November 2026; a beat has ten of those at most. */
const FOLD_LIMIT = 10_000
/** Of each kind at a call, so that no statement holds its locks for long; every beat removes more. */
const PRUNE_LIMIT = 500
/** Objects or folders at a call; more than a call's worth is left only after a long outage of the store. */
const INPUT_LIMIT = 100

/** Places for deliveries under way; shared by overlapping sweeps of one process. */
export interface DeliverySlots {
  free: number
  /** Deliveries under way of each org that has any. */
  byOrg: Map<string, number>
}

/** How a process that ends tells its deliveries. Both turn true and never back. */
export interface DeliveryStop {
  /** Nothing more is taken. */
  isStopping: boolean
  /** Connections are cut; see `deliver`. */
  isCut: boolean
}

export function createDeliverySlots(places = DELIVERY_SLOTS): DeliverySlots {
  return { free: places, byOrg: new Map() }
}

export type SweepPart =
  | 'dispatch'
  | 'deliver'
  | 'expire'
  | 'redispatch'
  | 'prune'
  | 'inputs'
  | 'stripe'
  | 'fold'
  | 'fleet'

/** What one call of each part did; a failed part has the error in place of the count. */
export type SweepReport = Record<SweepPart, number | Error>

/**
 * Does once all work that is due: messages nobody sent, webhook deliveries, overdue jobs, jobs whose message
 * the queue lost, rows and inputs that were kept long enough, ledger balances. Bounded; a part that fails stops no
 * other. Any number may run at once in any number of processes: rows are taken with locks that others skip.
 */
export async function sweepOnce(
  deps: SweepDeps,
  slots: DeliverySlots = createDeliverySlots(),
): Promise<SweepReport> {
  const [dispatch, delivered, expire, redispatch, prune, inputs, stripe, fold, fleet] =
    await Promise.all([
      guard(sendDueDispatches(deps)),
      guard(deliverDue(deps, slots)),
      guard(expireDue(deps)),
      guard(redispatchLost(deps)),
      guard(pruneOld(deps)),
      guard(removeOldInputs(deps)),
      guard(stripeDue(deps)),
      guard(foldDue(deps)),
      guard(publishFleetDue(deps)),
    ])
  return { dispatch, deliver: delivered, expire, redispatch, prune, inputs, stripe, fold, fleet }
}

/**
 * Sends the messages that their writers did not. Those that the queue refuses stay due.
 *
 * @returns how many were sent
 * @throws the queue's first error, after all were tried
 */
export async function sendDueDispatches(deps: SweepDeps): Promise<number> {
  const due = await takeDueDispatches(deps.db, {
    limit: DISPATCH_LIMIT,
    graceSeconds: DISPATCH_GRACE_SECONDS,
  })
  const results = await Promise.allSettled(
    due.map(({ id: outboxId, ...message }) => deps.queue.send({ outboxId, ...message })),
  )
  throwFirst(results)
  return due.length
}

/**
 * Makes the attempts that are due. Every place takes one delivery at a time, so that none is claimed long
 * before it is sent, and opens the next place when it found something, so that an idle system costs two
 * statements. An org whose receivers hang keeps its own few places and delays nobody else.
 *
 * @returns how many attempts were made
 * @throws the first error of the database, after all places have finished, those opened later among them
 */
export async function deliverDue(
  deps: DeliverDeps,
  slots: DeliverySlots,
  stop: DeliveryStop = { isStopping: false, isCut: false },
): Promise<number> {
  await postponeDeferred(deps.db, {
    now: deps.now(),
    limit: POSTPONE_LIMIT,
    spreadSeconds: PAUSE_SPREAD_SECONDS,
  })
  let attempts = 0
  const places = new Set<Promise<void>>()
  const errors: Error[] = []
  const open = () => {
    if (slots.free === 0) return
    // Handled from its first moment: a rejection that nobody listens to would end the process.
    const place = runPlace()
      .catch((error: unknown) => {
        errors.push(toError(error))
      })
      .finally(() => places.delete(place))
    places.add(place)
  }
  const runPlace = async () => {
    slots.free -= 1
    try {
      for (let count = 0; count < MAX_DELIVERIES_PER_SLOT && !stop.isStopping; count++) {
        const next = await claim(deps, slots)
        if (next === undefined) return
        open()
        await deliver(deps, next, stop).finally(() => countOrg(slots, next.orgId, -1))
        attempts += 1
      }
    } finally {
      slots.free += 1
    }
  }
  open()
  // Places open others while they run.
  while (places.size > 0) await Promise.all(places)
  const [first] = errors
  if (first !== undefined) throw first
  return attempts
}

/** Writes messages anew for jobs that wait too long; the next sweep sends them. */
export function redispatchLost(deps: SweepDeps): Promise<number> {
  return restageDispatch(deps.db, {
    olderThanSeconds: REDISPATCH_AFTER_SECONDS,
    limit: REDISPATCH_LIMIT,
  })
}

/** What is due with Stripe: its news, payments, usage to be told, comparisons. Nothing where it is not set up. */
export async function stripeDue(deps: SweepDeps): Promise<number> {
  return deps.stripe === undefined ? 0 : runStripe(deps.stripe)
}

/** @returns how many ledger entries went into the balances */
export function foldDue(deps: SweepDeps): Promise<number> {
  return foldBalances(deps.db, { limit: FOLD_LIMIT })
}

/** @returns how many messages, events and workers were removed */
export async function pruneOld(deps: SweepDeps): Promise<number> {
  const limit = PRUNE_LIMIT
  const messages = await pruneDispatches(deps.db, {
    olderThanSeconds: KEEP_DISPATCHES_SECONDS,
    limit,
  })
  const events = await pruneWebhookLog(deps.db, {
    olderThanSeconds: KEEP_WEBHOOK_LOG_SECONDS,
    limit,
  })
  const workers = await pruneWorkers(deps.db, { olderThanSeconds: KEEP_WORKERS_SECONDS })
  return messages + events + workers
}

/**
 * Removes inputs that no job can use any more: of jobs whose worker could not, and of calls that died before their
 * job was made.
 */
export function removeOldInputs(deps: SweepDeps): Promise<number> {
  const before = new Date(deps.now().getTime() - INPUT_LIFE_SECONDS * 1000)
  return deps.objects.removeOldInputs({ before, limit: INPUT_LIMIT })
}

/** @returns how many jobs ended */
export function expireDue(deps: SweepDeps): Promise<number> {
  return expireOverdue(deps.db, { limit: EXPIRE_LIMIT })
}

async function claim(
  deps: DeliverDeps,
  slots: DeliverySlots,
): Promise<ClaimedDelivery | undefined> {
  const busyOrgs = [...slots.byOrg].filter(([, count]) => count >= MAX_DELIVERIES_PER_ORG)
  const [next] = await claimDueDeliveries(deps.db, {
    now: deps.now(),
    limit: 1,
    leaseSeconds: DELIVERY_LEASE_SECONDS,
    exceptOrgs: busyOrgs.map(([orgId]) => orgId),
  })
  if (next !== undefined) countOrg(slots, next.orgId, 1)
  return next
}

function countOrg(slots: DeliverySlots, orgId: string, change: 1 | -1): void {
  const count = (slots.byOrg.get(orgId) ?? 0) + change
  if (count === 0) slots.byOrg.delete(orgId)
  else slots.byOrg.set(orgId, count)
}

async function guard(work: Promise<number>): Promise<number | Error> {
  return work.catch(toError)
}

function throwFirst(results: readonly PromiseSettledResult<unknown>[]): void {
  const failed = results.find((result) => result.status === 'rejected')
  if (failed !== undefined) throw toError(failed.reason)
}

function toError(reason: unknown): Error {
  return reason instanceof Error ? reason : new Error(String(reason))
}
