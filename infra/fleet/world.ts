import type { Arrivals } from './arrivals.ts'
import type { FairQueue } from './fair-queue.ts'
import { createFairQueue } from './fair-queue.ts'
import type { EventHeap } from './heaps.ts'
import { createEventHeap, read } from './heaps.ts'
import type { Random } from './random.ts'
import { createRandom } from './random.ts'
import type { ScalingSettings } from './scaling-policy.ts'
import { SIZE_CLASSES } from '../../db/size-classes.ts'

export interface SimulationConfig {
  readonly seed: number
  readonly arrivals: Arrivals
  readonly scaling: ScalingSettings
  /** The instant of second 0, for floors by schedule. */
  readonly startMs: number
  /** False for plain order of age. */
  readonly isFair: boolean
  /** Unfinished jobs of one tenant beyond which reserving refuses. */
  readonly tenantCap: number
  readonly deadlineSeconds: number
  readonly attemptSeconds: number
  readonly spotShare: number
  readonly spotPricePerGpuHour: number
  /** Between launch and notice of a spot GPU, in the mean. */
  readonly spotLifeSeconds: number
  /** What is left of a job that its GPU still finishes after the notice; 0 hands everything back. */
  readonly finishWithinSeconds: number
  readonly crashesPerGpuHour: number
  /** Of attempts, that end in an error somewhere on the way. */
  readonly failShare: number
}

export type Ended = 'succeeded' | 'failed' | 'expired' | 'refused'

/** Of a job. Hidden is what waits for a pause or for the lease of a dead worker to end. */
export const PHASE = {
  coming: 0,
  waiting: 1,
  hidden: 2,
  running: 3,
  succeeded: 4,
  failed: 5,
  expired: 6,
  refused: 7,
} as const
/** Of a place for a GPU. */
export const GPU = { none: 0, starting: 1, idle: 2, busy: 3, draining: 4 } as const
/** How an attempt will end if nothing comes between. */
export const END = { done: 0, failed: 1, deadline: 2, expired: 3, crashed: 4 } as const
export const EVENT = { attemptEnds: 0, ready: 1, notice: 2, shown: 3, sweep: 4 } as const

/** All that changes. Places and jobs are numbers, their properties are columns. */
export interface World {
  readonly config: SimulationConfig
  readonly events: EventHeap
  readonly queue: FairQueue
  readonly random: { attempt: Random; fleet: Random }
  readonly jobs: JobColumns
  readonly gpus: GpuColumns
  readonly totals: Totals
  readonly samples: Sample[]
  now: number
}

export interface JobColumns {
  readonly phase: Uint8Array
  /** NaN till a worker begins it. */
  readonly firstStart: Float64Array
  readonly endedAt: Float64Array
  readonly failures: Uint8Array
  readonly receives: Uint8Array
  readonly openOf: Int32Array
  readonly waitingBySize: number[]
  open: number
  /** The first job that may not have been begun, and the first that may still expire. */
  oldest: number
  expiring: number
}

export interface GpuColumns {
  readonly state: Uint8Array
  readonly job: Int32Array
  readonly beganAt: Float64Array
  readonly launchedAt: Float64Array
  readonly end: Uint8Array
  readonly isSpot: Uint8Array
  /** Changes with every launch and removal, so that a notice to what was in this place before is known as such. */
  readonly life: Int32Array
  /** The same with every start and every attempt. */
  readonly attempt: Int32Array
  readonly free: number[]
  readonly idle: number[]
  readonly idleSince: number[]
  starting: number
  busy: number
  draining: number
  spot: number
  lastOutAt: number
  lastInAt: number
}

export interface Totals {
  attempts: number
  usefulSeconds: number
  lostSeconds: number
  paidSeconds: number
  dollars: number
  launches: number
  notices: number
  crashes: number
  mostDollarsPerHour: number
  mostGpus: number
}

export interface Sample {
  readonly at: number
  readonly waiting: number
  readonly busy: number
  readonly running: number
  readonly starting: number
}

/** A fleet of none and jobs that are all to come. */
export function createWorld(config: SimulationConfig): World {
  const { tenantOf, tenants } = config.arrivals
  const jobs = createJobs(tenantOf.length, tenants.length)
  return {
    config,
    events: createEventHeap(),
    queue: createFairQueue({
      tenantOf,
      tenants: tenants.length,
      isOpen: (job) => read(jobs.phase, job) === PHASE.waiting,
      isFair: config.isFair,
    }),
    random: {
      attempt: createRandom(config.seed, 'attempts'),
      fleet: createRandom(config.seed, 'fleet'),
    },
    jobs,
    gpus: createGpus(config.scaling.maxGpus),
    totals: {
      attempts: 0,
      usefulSeconds: 0,
      lostSeconds: 0,
      paidSeconds: 0,
      dollars: 0,
      launches: 0,
      notices: 0,
      crashes: 0,
      mostDollarsPerHour: 0,
      mostGpus: 0,
    },
    samples: [],
    now: 0,
  }
}

function createJobs(count: number, tenants: number): JobColumns {
  return {
    phase: new Uint8Array(count),
    firstStart: new Float64Array(count).fill(NaN),
    endedAt: new Float64Array(count).fill(NaN),
    failures: new Uint8Array(count),
    receives: new Uint8Array(count),
    openOf: new Int32Array(tenants),
    waitingBySize: SIZE_CLASSES.map(() => 0),
    open: 0,
    oldest: 0,
    expiring: 0,
  }
}

function createGpus(most: number): GpuColumns {
  return {
    state: new Uint8Array(most),
    job: new Int32Array(most).fill(-1),
    beganAt: new Float64Array(most),
    launchedAt: new Float64Array(most),
    end: new Uint8Array(most),
    isSpot: new Uint8Array(most),
    life: new Int32Array(most),
    attempt: new Int32Array(most),
    free: Array.from({ length: most }, (_, index) => most - 1 - index),
    idle: [],
    idleSince: [],
    starting: 0,
    busy: 0,
    draining: 0,
    spot: 0,
    lastOutAt: -Infinity,
    lastInAt: -Infinity,
  }
}
