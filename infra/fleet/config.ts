import { JOB_DEADLINE_SECONDS } from '../../db/job-state.ts'
import { ATTEMPT_SECONDS } from '../../gpu-worker/settings.ts'
import { SPOT_SHARE } from '../cdk/prices.ts'
import { readArrivals } from './arrivals-file.ts'
import { drawArrivals, floodsOf, toArrivals } from './arrivals.ts'
import type { Arrivals } from './arrivals.ts'
import { SILENCE_SECONDS } from './fair-queue.ts'
import type { SimulateOptions } from './options.ts'
import {
  BACKLOG_TARGET_SECONDS,
  COLD_START_SECONDS,
  PROMISED_WAIT_SECONDS,
  tenantCap,
} from './scaling-policy.ts'
import type { SimulationConfig } from './world.ts'

/** A Monday, so that floors by weekday would begin with a working week. */
const START_MS = Date.UTC(2026, 0, 5)
/** Third parties put the life of H100 spot in busy regions at two to four hours. */
const SPOT_LIFE_SECONDS = 3 * 3_600
/**
 * Within which an automatic cap lets the fleet work off one tenant's jobs: the queue takes a tenant that has sent
 * nothing for five minutes for a quiet one, and what is left of a flood then goes before all that is younger.
 */
const CAP_DRAIN_SECONDS = SILENCE_SECONDS

/** What is simulated: the options over the product's own numbers. @param readText of the file of arrivals */
export function configOf(
  options: SimulateOptions,
  readText: (file: string) => string,
): SimulationConfig {
  const arrivals = arrivalsOf(options, readText)
  const { pricePerGpuHour, minGpus, maxGpus } = options
  return {
    seed: options.seed,
    arrivals,
    scaling: {
      minGpus,
      maxGpus,
      floors: options.floors,
      costCapPerHour: options.costCapPerHour ?? maxGpus * pricePerGpuHour,
      pricePerGpuHour,
      coldStartSeconds: options.coldStartSeconds ?? COLD_START_SECONDS,
      backlogTargetSeconds: BACKLOG_TARGET_SECONDS,
      promisedWaitSeconds: PROMISED_WAIT_SECONDS,
    },
    startMs: START_MS,
    isFair: options.isFair,
    tenantCap: capOf(options, arrivals),
    deadlineSeconds: JOB_DEADLINE_SECONDS.standard,
    attemptSeconds: ATTEMPT_SECONDS,
    spotShare: options.spotShare,
    spotPricePerGpuHour: pricePerGpuHour * SPOT_SHARE,
    spotLifeSeconds: SPOT_LIFE_SECONDS,
    finishWithinSeconds: options.finishWithinSeconds,
    crashesPerGpuHour: options.crashesPerGpuHour,
    failShare: options.failShare,
  }
}

function arrivalsOf(options: SimulateOptions, readText: (file: string) => string): Arrivals {
  const { arrivals, seed, hours, rate, tenants, mix, floods } = options
  if (typeof arrivals === 'string') {
    return drawArrivals({ seed, shape: arrivals, hours: hours ?? 24, rate, tenants, mix, floods })
  }
  const all = [...readArrivals(readText(arrivals.file)), ...floodsOf(floods)]
  const last = all.reduce((most, { seconds }) => Math.max(most, seconds), 0)
  const horizonSeconds = hours === null ? last : hours * 3_600
  const within = all.filter(({ seconds }) => seconds <= horizonSeconds)
  return toArrivals(within, { seed, horizonSeconds })
}

function capOf({ tenantCap: cap, maxGpus }: SimulateOptions, arrivals: Arrivals): number {
  if (cap === null) return Infinity
  if (cap !== 'auto') return cap
  const { gpuSeconds } = arrivals
  const sum = gpuSeconds.reduce((before, seconds) => before + seconds, 0)
  const meanJobSeconds = sum / Math.max(1, gpuSeconds.length)
  return tenantCap({ gpus: maxGpus, meanJobSeconds, drainSeconds: CAP_DRAIN_SECONDS })
}
