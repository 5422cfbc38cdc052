import { read } from './heaps.ts'
import { endAttempt, freeGpu, giveBackJob, oldestWait } from './job-events.ts'
import { decideScale, noteIdle } from './scaling-policy.ts'
import type { FleetSnapshot, Work } from './scaling-policy.ts'
import { SIZE_CLASSES } from '../../db/size-classes.ts'
import { END, EVENT, GPU } from './world.ts'
import type { World } from './world.ts'

/** Of a process on a machine that is up: engine start and sessions, with the files still in memory. */
const RESTART_SECONDS = 30
/** Starts differ by region, hour and luck. */
const COLD_START_SPREAD = 0.2

/** Asks the policy and does what it says. */
export function scale(world: World): void {
  const { gpus, config } = world
  const { desired } = decideScale(snapshotOf(world), config.scaling)
  const current = gpus.busy + gpus.idle.length + gpus.starting
  for (let count = current; count < desired; count++) launch(world)
  if (desired > current) gpus.lastOutAt = world.now
  if (desired >= current) return
  gpus.lastInAt = world.now
  // The policy asks nobody at work to go, unless a limit is lowered, which none is here.
  const leaving = Math.min(current - desired, gpus.idle.length)
  for (let count = 0; count < leaving; count++) {
    const gpu = gpus.idle.pop() as number
    noteIdle(gpus.idleSince, gpus.idle.length, world.now)
    remove(world, gpu)
  }
}

function snapshotOf(world: World): FleetSnapshot {
  const { gpus, jobs, config, now } = world
  const waiting: Work[] = SIZE_CLASSES.map(({ name, meanSeconds }, size) => {
    const count = jobs.waitingBySize[size] ?? 0
    return { sizeClass: name, jobs: count, gpuSeconds: count * meanSeconds }
  })
  return {
    nowMs: config.startMs + now * 1_000,
    waiting,
    patient: [],
    oldestWaitSeconds: oldestWait(world),
    running: gpus.busy + gpus.idle.length,
    busy: gpus.busy,
    starting: gpus.starting,
    draining: gpus.draining,
    spareSeconds: gpus.idleSince.map((since) => now - since),
    sinceScaleOutSeconds: now - gpus.lastOutAt,
    sinceScaleInSeconds: now - gpus.lastInAt,
  }
}

function launch(world: World): void {
  const { gpus, config, totals, now, events } = world
  const gpu = gpus.free.pop()
  if (gpu === undefined) throw new Error('more GPUs than the most allowed (bug)')
  const inUse = config.scaling.maxGpus - gpus.free.length
  // On demand first, so that the share of spot is never more than was asked for.
  const isSpot = gpus.spot + 1 <= config.spotShare * inUse + 1e-9
  gpus.isSpot[gpu] = isSpot ? 1 : 0
  gpus.spot += isSpot ? 1 : 0
  gpus.launchedAt[gpu] = now
  gpus.life[gpu] = read(gpus.life, gpu) + 1
  totals.launches += 1
  start(world, gpu, world.random.fleet.spread(config.scaling.coldStartSeconds, COLD_START_SPREAD))
  if (isSpot) {
    const life = world.random.fleet.exponential(config.spotLifeSeconds)
    events.push(now + life, EVENT.notice, gpu, read(gpus.life, gpu))
  }
  const spotPrice = gpus.spot * config.spotPricePerGpuHour
  const perHour = spotPrice + (inUse - gpus.spot) * config.scaling.pricePerGpuHour
  totals.mostDollarsPerHour = Math.max(totals.mostDollarsPerHour, perHour)
  totals.mostGpus = Math.max(totals.mostGpus, inUse)
}

function start(world: World, gpu: number, seconds: number): void {
  const { gpus, events, now } = world
  gpus.state[gpu] = GPU.starting
  gpus.starting += 1
  gpus.attempt[gpu] = read(gpus.attempt, gpu) + 1
  events.push(now + seconds, EVENT.ready, gpu, read(gpus.attempt, gpu))
}

/** A GPU that started takes its first message. */
export function onReady(world: World, gpu: number, attempt: number): void {
  const { gpus } = world
  if (read(gpus.attempt, gpu) !== attempt || read(gpus.state, gpu) !== GPU.starting) return
  gpus.starting -= 1
  gpus.busy += 1
  freeGpu(world, gpu)
}

/** An attempt came to its end, and with it the GPU's reason to be, where it had to leave. */
export function onAttemptEnds(world: World, gpu: number, attempt: number): void {
  const { gpus, totals } = world
  if (read(gpus.attempt, gpu) !== attempt) return
  const isCrash = read(gpus.end, gpu) === END.crashed
  endAttempt(world, gpu)
  if (isCrash) totals.crashes += 1
  if (read(gpus.state, gpu) === GPU.draining) {
    gpus.draining -= 1
    remove(world, gpu)
  } else if (isCrash) {
    gpus.busy -= 1
    start(world, gpu, RESTART_SECONDS)
  } else {
    freeGpu(world, gpu)
  }
}

/**
 * Two minutes are left to a spot GPU. It takes nothing more, and finishes what ends soon enough by the pipeline's own
 * count of steps, or hands it back at once; then it goes, and is not paid any more.
 */
export function onNotice(world: World, gpu: number, life: number): void {
  const { gpus, config, now } = world
  const state = read(gpus.state, gpu)
  if (read(gpus.life, gpu) !== life || state === GPU.none) return
  world.totals.notices += 1
  if (state === GPU.starting) gpus.starting -= 1
  if (state === GPU.idle) {
    gpus.idle.splice(gpus.idle.indexOf(gpu), 1)
    noteIdle(gpus.idleSince, gpus.idle.length, now)
  }
  if (state === GPU.busy) {
    gpus.busy -= 1
    const total = read(config.arrivals.gpuSeconds, read(gpus.job, gpu))
    const left = read(gpus.beganAt, gpu) + total - now
    if (left < config.finishWithinSeconds) {
      gpus.state[gpu] = GPU.draining
      gpus.draining += 1
      return
    }
    giveBackJob(world, gpu)
  }
  remove(world, gpu)
}

/** Ends a GPU that does nothing, and its bill. */
export function remove(world: World, gpu: number): void {
  const { gpus, config, totals, now } = world
  const seconds = now - read(gpus.launchedAt, gpu)
  const isSpot = read(gpus.isSpot, gpu) === 1
  const price = isSpot ? config.spotPricePerGpuHour : config.scaling.pricePerGpuHour
  totals.paidSeconds += seconds
  totals.dollars += (seconds / 3_600) * price
  if (isSpot) gpus.spot -= 1
  gpus.life[gpu] = read(gpus.life, gpu) + 1
  gpus.state[gpu] = GPU.none
  gpus.free.push(gpu)
}
