import { Gauge } from 'prom-client'
import type { Registry } from 'prom-client'
import type { Db } from '../../db/client.ts'
import { readServiceState } from '../../db/service-state.ts'
import type { ServiceState } from '../../db/service-state.ts'

/** Several who ask at once, or every second, cost the database one statement. */
const FRESH_MS = 5_000
/** Below the ten seconds after which Prometheus gives a scrape up. */
const READ_TIMEOUT_MS = 3_000

type Read = (state: ServiceState) => number | null

/** Each figure of the books with its meaning. An age that nothing has is 0. */
const FIGURES: readonly (readonly [name: string, help: string, read: Read])[] = [
  ['jobs_running', 'Jobs in the hands of live workers', ({ jobs }) => jobs.running],
  ['jobs_overdue', 'Jobs past their deadline that are not ended yet', ({ jobs }) => jobs.overdue],
  [
    'jobs_oldest_wait_seconds',
    'Of the standard jobs that nobody has begun',
    ({ jobs }) => jobs.oldestWaitSeconds,
  ],
  [
    'jobs_oldest_unsent_seconds',
    'Of the jobs whose message never left for the queue',
    ({ jobs }) => jobs.oldestUnsentSeconds,
  ],
  ['outbox_unsent', 'Messages that did not leave yet', ({ outbox }) => outbox.unsent],
  ['workers_seen', 'Workers of the last minute', ({ workers }) => workers.seen],
  ['webhooks_due', 'Deliveries whose time has come', ({ webhooks }) => webhooks.due],
  [
    'webhooks_oldest_due_seconds',
    'Since the time of the first of them came',
    ({ webhooks }) => webhooks.oldestDueSeconds,
  ],
  [
    'ledger_lag_seconds',
    'Age of the first ledger entry that no balance has',
    ({ ledger }) => ledger.unfoldedSeconds,
  ],
  [
    'stripe_reports_unsent',
    'Totals of usage that Stripe has not been told',
    ({ stripe }) => stripe.unsentReports,
  ],
  [
    'stripe_oldest_unsent_seconds',
    'Age of the first of them',
    ({ stripe }) => stripe.oldestUnsentSeconds,
  ],
  [
    'stripe_unsealed_seconds',
    'Since the end of the last hour whose usage was summed up',
    ({ stripe }) => stripe.unsealedSeconds,
  ],
  [
    'stripe_events_unapplied',
    'News from Stripe that was not worked off',
    ({ stripe }) => stripe.unappliedEvents,
  ],
  [
    'stripe_oldest_event_seconds',
    'Age of the first of it',
    ({ stripe }) => stripe.oldestUnappliedSeconds,
  ],
]

/**
 * Figures of the books, read when somebody asks. Every process that sweeps shows the same ones. When the database does
 * not answer in time they are left out, and `glyphpress_database_up` is 0.
 */
export function watchService(registry: Registry, db: Db): void {
  const registers = [registry]
  const read = createReader(db)
  const up: Gauge = new Gauge({
    name: 'glyphpress_database_up',
    help: 'Whether the database answered the last question',
    registers,
    collect: async () => up.set((await read()) === null ? 0 : 1),
  })
  const waiting = new Gauge({
    name: 'glyphpress_jobs_waiting',
    help: 'Jobs that no live worker has',
    labelNames: ['priority'] as const,
    registers,
    async collect() {
      const state = await read()
      waiting.reset()
      for (const [priority, jobs] of Object.entries(state?.jobs.waiting ?? {})) {
        waiting.set({ priority }, jobs)
      }
    },
  })
  for (const [name, help, figure] of FIGURES) {
    const gauge = new Gauge({
      name: `glyphpress_${name}`,
      help,
      registers,
      async collect() {
        const state = await read()
        if (state === null) gauge.remove()
        else gauge.set(Math.max(0, figure(state) ?? 0))
      },
    })
  }
}

/** Null when the database does not answer; never throws. */
function createReader(db: Db): () => Promise<ServiceState | null> {
  let known: { state: Promise<ServiceState | null>; at: number } | null = null
  return () => {
    if (known === null || performance.now() - known.at > FRESH_MS) {
      known = { state: readInTime(db), at: performance.now() }
    }
    return known.state
  }
}

async function readInTime(db: Db): Promise<ServiceState | null> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<null>((resolve) => {
    timer = setTimeout(() => resolve(null), READ_TIMEOUT_MS)
  })
  try {
    return await Promise.race([readServiceState(db), late])
  } catch {
    return null
  } finally {
    clearTimeout(timer)
  }
}
