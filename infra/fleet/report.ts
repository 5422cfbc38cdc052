import { read } from './heaps.ts'
import { PHASE } from './world.ts'
import type { Sample, World } from './world.ts'

export interface Waits {
  /** Jobs, without those that were refused. */
  jobs: number
  p50: number
  p95: number
  p99: number
  mean: number
}

export interface Report {
  jobs: {
    arrived: number
    succeeded: number
    failed: number
    expired: number
    refused: number
    /** Attempts beyond each job's first. */
    retries: number
    /** Accepted and never ended in any way: must be 0. */
    lost: number
  }
  /** Unfinished jobs of one tenant beyond which the next was refused (`max_inflight`); null: none was. */
  tenantCap: number | null
  /** Seconds from arrival to the first attempt, or to the end of those that nobody began. */
  waits: { all: Waits; quietest: TenantWaits; loudest: TenantWaits; quietHalf: Waits }
  /** Seconds from arrival to the picture. */
  turnaround: Waits
  gpus: {
    utilisation: number
    paidHours: number
    lostSeconds: number
    launches: number
    most: number
    spotNotices: number
    crashes: number
  }
  dollars: { total: number; perImage: number | null; mostPerHour: number }
  series: Series
}

export interface TenantWaits extends Waits {
  tenant: string
}

export interface Series {
  /** Middle of each span, in seconds. */
  at: number[]
  waiting: number[]
  busy: number[]
  running: number[]
  starting: number[]
  /** Of the jobs that arrived in the span; null where none did. */
  waitP50: (number | null)[]
  waitP95: (number | null)[]
}

/** Points of a plot: more than a screen shows would only make the files longer. */
const SPANS = 240

/** What a run came to. Rounded to what a reader can use, which also keeps the bytes the same. */
export function reportOf(world: World): Report {
  const { totals, jobs, config } = world
  const waits = waitsOf(world)
  const counts = countPhases(world)
  const { tenants, tenantOf } = config.arrivals
  const order = byJobs(world)
  const loudest = order.at(-1) ?? 0
  const quietest = order[0] ?? 0
  const isQuiet = new Uint8Array(tenants.length)
  for (const tenant of order.slice(0, Math.ceil(order.length / 2))) isQuiet[tenant] = 1
  const of = (isWanted: (tenant: number) => boolean) =>
    summarise(waits.filter((_, job) => isWanted(read(tenantOf, job))))
  const nameOf = (tenant: number) => tenants[tenant] ?? ''
  const begun = jobs.firstStart.reduce((sum, at) => sum + (Number.isNaN(at) ? 0 : 1), 0)
  return {
    jobs: { ...counts, retries: totals.attempts - begun },
    tenantCap: Number.isFinite(config.tenantCap) ? config.tenantCap : null,
    waits: {
      all: summarise(waits),
      quietest: { tenant: nameOf(quietest), ...of((tenant) => tenant === quietest) },
      loudest: { tenant: nameOf(loudest), ...of((tenant) => tenant === loudest) },
      quietHalf: of((tenant) => isQuiet[tenant] === 1),
    },
    turnaround: summarise(turnaroundsOf(world)),
    gpus: {
      utilisation: round(
        (totals.usefulSeconds + totals.lostSeconds) / Math.max(1, totals.paidSeconds),
        4,
      ),
      paidHours: round(totals.paidSeconds / 3_600, 2),
      lostSeconds: round(totals.lostSeconds, 0),
      launches: totals.launches,
      most: totals.mostGpus,
      spotNotices: totals.notices,
      crashes: totals.crashes,
    },
    dollars: {
      total: round(totals.dollars, 2),
      perImage: counts.succeeded === 0 ? null : round(totals.dollars / counts.succeeded, 5),
      mostPerHour: round(totals.mostDollarsPerHour, 2),
    },
    series: seriesOf(world, waits),
  }
}

/** By job; NaN of what was refused. */
export function waitsOf({ jobs, config }: World): Float64Array {
  return jobs.firstStart.map((start, job) => {
    if (read(jobs.phase, job) === PHASE.refused) return NaN
    const until = Number.isNaN(start) ? read(jobs.endedAt, job) : start
    return until - read(config.arrivals.seconds, job)
  })
}

function turnaroundsOf({ jobs, config }: World): Float64Array {
  return jobs.endedAt.map((at, job) =>
    read(jobs.phase, job) === PHASE.succeeded ? at - read(config.arrivals.seconds, job) : NaN,
  )
}

/** Of what is not NaN. */
export function summarise(values: Float64Array): Waits {
  const known = values.filter((value) => !Number.isNaN(value)).sort()
  const at = (share: number) => quantile(known, share)
  const sum = known.reduce((before, value) => before + value, 0)
  const mean = known.length === 0 ? 0 : round(sum / known.length, 3)
  return { jobs: known.length, p50: at(0.5), p95: at(0.95), p99: at(0.99), mean }
}

/** Nearest rank: a value that occurred. */
function quantile(sorted: Float64Array, share: number): number {
  if (sorted.length === 0) return 0
  return round(read(sorted, Math.max(0, Math.ceil(share * sorted.length) - 1)), 2)
}

function countPhases({ jobs }: World) {
  const of = (phase: number) =>
    jobs.phase.reduce((sum, value) => sum + (value === phase ? 1 : 0), 0)
  const counts = {
    arrived: jobs.phase.length,
    succeeded: of(PHASE.succeeded),
    failed: of(PHASE.failed),
    expired: of(PHASE.expired),
    refused: of(PHASE.refused),
  }
  const ended = counts.succeeded + counts.failed + counts.expired + counts.refused
  return { ...counts, lost: counts.arrived - ended }
}

/** Tenants by how much they asked for, the quietest first. */
function byJobs({ config }: World): number[] {
  const { tenants, tenantOf } = config.arrivals
  const counts = new Int32Array(tenants.length)
  for (const tenant of tenantOf) counts[tenant] = read(counts, tenant) + 1
  const order = tenants.map((_, tenant) => tenant)
  return order.sort((a, b) => read(counts, a) - read(counts, b) || a - b)
}

function seriesOf(world: World, waits: Float64Array): Series {
  const { samples, config } = world
  const end = Math.max(samples.at(-1)?.at ?? 0, 1)
  const spans = Math.min(SPANS, samples.length)
  const width = end / spans
  const spanOf = (at: number) => Math.min(spans - 1, Math.floor(at / width))
  const sampled = Array.from({ length: spans }, (): Sample[] => [])
  for (const sample of samples) sampled[spanOf(sample.at)]?.push(sample)
  const waited = Array.from({ length: spans }, (): number[] => [])
  waits.forEach((wait, job) => waited[spanOf(read(config.arrivals.seconds, job))]?.push(wait))
  const mean = (of: (sample: Sample) => number) =>
    sampled.map((part) =>
      round(part.reduce((sum, sample) => sum + of(sample), 0) / Math.max(1, part.length), 1),
    )
  const summaries = waited.map((part) => summarise(Float64Array.from(part)))
  return {
    at: sampled.map((_, span) => round((span + 0.5) * width, 0)),
    waiting: sampled.map((part) => part.reduce((most, { waiting }) => Math.max(most, waiting), 0)),
    busy: mean(({ busy }) => busy),
    running: mean(({ running }) => running),
    starting: mean(({ starting }) => starting),
    waitP50: summaries.map(({ jobs, p50 }) => (jobs === 0 ? null : p50)),
    waitP95: summaries.map(({ jobs, p95 }) => (jobs === 0 ? null : p95)),
  }
}

function round(value: number, digits: number): number {
  const scale = 10 ** digits
  return Math.round(value * scale) / scale
}
