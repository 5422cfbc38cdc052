import type { Db } from '../db/client.ts'
import { readServiceState } from '../db/service-state.ts'
import type { ServiceState } from '../db/service-state.ts'

export type Condition = 'operational' | 'degraded' | 'outage'

export interface Component {
  /** `unknown`: the database, which would tell, does not answer. */
  status: Condition | 'unknown'
  /** When it last did its work; null where that is not known. */
  lastSuccessAt: Date | null
  figures: Record<string, number | null>
}

export const COMPONENTS = ['api', 'database', 'queue', 'workers', 'webhooks', 'billing'] as const
export type ComponentName = (typeof COMPONENTS)[number]

export interface ServiceStatus {
  status: Condition
  checkedAt: Date
  components: Record<ComponentName, Component>
}

/** What one look at the database gave; a null state: no answer in time. */
export interface Look {
  state: ServiceState | null
  at: Date
  tookMs: number
}

/** So long one look is enough for everybody who asks. */
export const FRESH_MS = 5_000
/** Above this age what is known is not handed out any more, also not while somebody looks again. */
const STALE_MS = 15_000
/** A monitor should hear of an outage before it gives up by itself. */
const LOOK_TIMEOUT_MS = 2_000
const POLL_MS = 50

export interface StatusReader {
  /** What was seen lately, or is seen now; never throws and answers within seconds, whatever the database does. */
  look(db: Db): Promise<Look>
}

/**
 * One look in five seconds, however many ask: nobody needs a key for it, so nobody may load the database by it. Whoever asks
 * while somebody else looks is told what is known, or waits for it. No promise is shared, as on Workers a request must not
 * wait for what another one has begun.
 */
export function createStatusReader(
  now: () => Date,
  read: (db: Db) => Promise<ServiceState> = readServiceState,
): StatusReader {
  let known: Look | null = null
  let lookingUntil = 0
  const ageMs = () => (known === null ? Infinity : now().getTime() - known.at.getTime())
  const lookNow = async (db: Db): Promise<Look> => {
    const startedAt = performance.now()
    // A request that is gone on Workers never ends its look.
    lookingUntil = now().getTime() + 2 * LOOK_TIMEOUT_MS
    const state = await inTime(read(db))
    known = { state, at: now(), tookMs: Math.round(performance.now() - startedAt) }
    lookingUntil = 0
    return known
  }
  return {
    async look(db) {
      for (;;) {
        const isLooking = now().getTime() < lookingUntil
        if (known !== null && ageMs() < (isLooking ? STALE_MS : FRESH_MS)) return known
        if (!isLooking) return lookNow(db)
        await new Promise((resolve) => setTimeout(resolve, POLL_MS))
      }
    },
  }
}

/** Null when it fails or takes too long. */
async function inTime(work: Promise<ServiceState>): Promise<ServiceState | null> {
  let timer: ReturnType<typeof setTimeout> | undefined
  const late = new Promise<null>((resolve) => {
    timer = setTimeout(() => resolve(null), LOOK_TIMEOUT_MS)
  })
  try {
    return await Promise.race([work, late])
  } catch {
    return null
  } finally {
    clearTimeout(timer)
  }
}

/** Above which a part is degraded, and above which it is out, in seconds. */
const LIMITS = {
  /** A message that its writer did not send is the sweep's after two seconds. */
  unsent: [60, 900],
  /** A fleet that grows from nothing takes some minutes; the alarm of the queue begins at 900. */
  wait: [300, 900],
  /** Due deliveries leave within a second. */
  webhook: [120, Infinity],
  /** Balances are folded every ten seconds. */
  ledger: [300, Infinity],
  /** News from Stripe is worked off at once, and again after failures. */
  event: [3_600, Infinity],
  /** An hour's usage is summed up five minutes after its end, and told then. */
  unsealed: [7_200, Infinity],
  report: [7_200, Infinity],
} as const satisfies Record<string, readonly [number, number]>

/**
 * Judges a look. Where the database does not answer no job can be accepted, which is an outage, and of the rest nothing is
 * known. Webhooks and billing that lag are a nuisance and no outage: nothing is lost by it.
 *
 * @param options.hasStripe whether usage is told to Stripe at all
 */
export function judgeService(look: Look, { hasStripe }: { hasStripe: boolean }): ServiceStatus {
  const { state, at, tookMs } = look
  if (state === null) {
    const dead = { lastSuccessAt: null, figures: {} }
    const unknown: Component = { status: 'unknown', ...dead }
    return {
      status: 'outage',
      checkedAt: at,
      components: {
        api: { status: 'outage', ...dead },
        database: { status: 'outage', lastSuccessAt: null, figures: { response_ms: tookMs } },
        queue: unknown,
        workers: unknown,
        webhooks: unknown,
        billing: unknown,
      },
    }
  }
  const { jobs } = state
  const components = {
    api: part(at, { oldest_unsent_seconds: jobs.oldestUnsentSeconds }, [
      [jobs.oldestUnsentSeconds, LIMITS.unsent],
    ]),
    database: part(at, { response_ms: tookMs }, []),
    queue: judgeQueue(state),
    workers: judgeWorkers(state),
    webhooks: part(
      state.webhooks.lastDeliveredAt,
      { due: state.webhooks.due, oldest_due_seconds: state.webhooks.oldestDueSeconds },
      [[state.webhooks.oldestDueSeconds, LIMITS.webhook]],
    ),
    billing: judgeBilling(state, hasStripe),
  }
  return { status: worst(Object.values(components)), checkedAt: at, components }
}

type Judged = Component & { status: Condition }

function judgeQueue({ jobs }: ServiceState): Judged {
  return part(
    jobs.lastBegunAt,
    {
      waiting: jobs.waiting.standard + jobs.waiting.batch,
      oldest_wait_seconds: jobs.oldestWaitSeconds,
      median_wait_seconds: jobs.medianWaitSeconds,
    },
    [[jobs.oldestWaitSeconds, LIMITS.wait]],
  )
}

/** A fleet that has nothing to do may be empty. */
function judgeWorkers({ jobs, workers }: ServiceState): Judged {
  return part(jobs.lastSucceededAt, { seen: workers.seen, running: jobs.running }, [
    [workers.seen === 0 ? jobs.oldestWaitSeconds : null, LIMITS.wait],
  ])
}

function judgeBilling({ ledger, stripe }: ServiceState, hasStripe: boolean): Judged {
  const { unfoldedSeconds } = ledger
  if (!hasStripe) {
    return part(null, { ledger_lag_seconds: unfoldedSeconds }, [[unfoldedSeconds, LIMITS.ledger]])
  }
  return part(
    stripe.lastAcceptedAt,
    { ledger_lag_seconds: unfoldedSeconds, report_lag_seconds: stripe.oldestUnsentSeconds },
    [
      [unfoldedSeconds, LIMITS.ledger],
      [stripe.oldestUnappliedSeconds, LIMITS.event],
      [stripe.oldestUnsentSeconds, LIMITS.report],
      [stripe.unsealedSeconds, LIMITS.unsealed],
    ],
  )
}

function part(
  lastSuccessAt: Date | null,
  figures: Component['figures'],
  ages: readonly (readonly [seconds: number | null, limits: readonly [number, number]])[],
): Judged {
  const isAbove = (which: 0 | 1) =>
    ages.some(([seconds, limits]) => seconds !== null && seconds > limits[which])
  const status = isAbove(1) ? 'outage' : isAbove(0) ? 'degraded' : 'operational'
  return { status, lastSuccessAt, figures }
}

function worst(components: readonly Judged[]): Condition {
  const has = (condition: Condition) => components.some(({ status }) => status === condition)
  return has('outage') ? 'outage' : has('degraded') ? 'degraded' : 'operational'
}
