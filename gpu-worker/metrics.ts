import { Counter, Gauge, Histogram, Registry, collectDefaultMetrics } from 'prom-client'
import type { SettleResult } from '../billing/settle.ts'
import type { Pool } from '../db/client.ts'

/** Seconds: a claim takes milliseconds, a step at full size on a processor minutes. */
const STAGE_BUCKETS = [0.005, 0.02, 0.1, 0.5, 1, 2, 4, 8, 16, 30, 60, 120, 240, 480, 960]
/** Seconds: nobody waits on an idle fleet; a patient job may wait for hours. */
const WAIT_BUCKETS = [0.1, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 14_400]

/**
 * What a worker counts. Every word that is handed over is of a small fixed set: no organisation, key or job is one.
 */
export interface WorkerMetrics {
  /** One passage of a stage: `claim`, `read_back`, `store`, `settle`, `load`, or one of the engine's own. */
  stage(stage: string, seconds: number): void
  /** From accepted to begun, of a job that nobody has begun before. */
  queueWait(priority: string, seconds: number): void
  /** Time on the engine, of pictures that were not kept too. */
  engine(provider: string, seconds: number): void
  /** What became of a delivery of the queue. */
  jobEnd(outcome: string): void
  /** What became of the pictures of a job, once. */
  settled(result: SettleResult, errorCode: string | undefined): void
  deadLetter(outcome: string): void
  queueFailure(): void
}

/**
 * The figures of a worker process for Prometheus, with those of Node itself. `infra/observe.md` says what each is for.
 *
 * @param input.busy slots with a job
 */
export function createWorkerMetrics(input: { pool: Pool; slots: number; busy: () => number }): {
  registry: Registry
  metrics: WorkerMetrics
} {
  const registry = new Registry()
  collectDefaultMetrics({ register: registry })
  showState(registry, input)
  return { registry, metrics: { ...countTimes(registry), ...countEnds(registry) } }
}

function showState(
  registry: Registry,
  { pool, slots, busy }: { pool: Pool; slots: number; busy: () => number },
): void {
  const show = (name: string, help: string, read: () => number) => {
    const gauge: Gauge = new Gauge({
      name: `glyphpress_${name}`,
      help,
      registers: [registry],
      collect: () => gauge.set(read()),
    })
  }
  show('slots', 'Jobs that this worker works on at once', () => slots)
  show('slots_busy', 'Jobs that it has in hand', busy)
  show(
    'database_calls',
    'Statements and transactions that run or wait for a connection',
    () => pool.use.calls,
  )
  show(
    'database_connections_max',
    'Connections that this process may open',
    () => pool.use.maxConnections,
  )
}

function countTimes(registry: Registry): Pick<WorkerMetrics, 'stage' | 'queueWait' | 'engine'> {
  const registers = [registry]
  const stages = new Histogram({
    name: 'glyphpress_stage_duration_seconds',
    help: 'Stages of a job; those of the engine by picture, without the wait for their turn',
    labelNames: ['stage'] as const,
    buckets: STAGE_BUCKETS,
    registers,
  })
  const waits = new Histogram({
    name: 'glyphpress_queue_wait_seconds',
    help: 'From accepted to begun, of jobs that nobody has begun before',
    labelNames: ['priority'] as const,
    buckets: WAIT_BUCKETS,
    registers,
  })
  const engine = new Counter({
    name: 'glyphpress_gpu_seconds_total',
    help: 'Time on the engine, of finished pictures and of those that were drawn again',
    labelNames: ['provider'] as const,
    registers,
  })
  return {
    stage: (stage, seconds) => stages.observe({ stage }, seconds),
    queueWait: (priority, seconds) => waits.observe({ priority }, seconds),
    engine: (provider, seconds) => engine.inc({ provider }, seconds),
  }
}

function countEnds(
  registry: Registry,
): Pick<WorkerMetrics, 'jobEnd' | 'settled' | 'deadLetter' | 'queueFailure'> {
  const registers = [registry]
  const ends = new Counter({
    name: 'glyphpress_queue_deliveries_total',
    help: 'What became of what the queue delivered',
    labelNames: ['outcome'] as const,
    registers,
  })
  const images = new Counter({
    name: 'glyphpress_images_total',
    help: 'Pictures of the jobs that this worker ended',
    labelNames: ['outcome', 'reason'] as const,
    registers,
  })
  const letters = new Counter({
    name: 'glyphpress_dead_letters_total',
    help: 'Messages that were received too often',
    labelNames: ['outcome'] as const,
    registers,
  })
  const failures = new Counter({
    name: 'glyphpress_queue_failures_total',
    help: 'Calls of the queue that got no answer',
    registers,
  })
  return {
    jobEnd: (outcome) => ends.inc({ outcome }),
    settled(result, errorCode) {
      if (result.outcome === 'superseded' || result.images === undefined) return
      const { ordered, billed, unbilledReason } = result.images
      const free = result.deliveredCount - billed
      const missing = ordered - result.deliveredCount
      if (billed > 0) images.inc({ outcome: 'billed', reason: '' }, billed)
      if (free > 0) images.inc({ outcome: 'free', reason: unbilledReason ?? '' }, free)
      if (missing > 0) images.inc(missingLabels(result.state, errorCode), missing)
    },
    deadLetter: (outcome) => letters.inc({ outcome }),
    queueFailure: () => failures.inc(),
  }
}

/** A job that succeeded in part has pictures that failed, for the reason that it keeps. */
function missingLabels(state: string, errorCode: string | undefined) {
  return { outcome: state === 'succeeded' ? 'failed' : state, reason: errorCode ?? '' }
}
