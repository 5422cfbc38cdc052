import { onAttemptEnds, onNotice, onReady, remove, scale } from './gpu-events.ts'
import { read } from './heaps.ts'
import { acceptJob, dispatch, expireJobs, showJob } from './job-events.ts'
import { createWorld, EVENT, GPU } from './world.ts'
import type { SimulationConfig, World } from './world.ts'

/** How often the backlog is read and the policy asked: what a sweep can do all day. */
export const SWEEP_SECONDS = 15

/**
 * Plays arrivals against a fleet over a virtual clock, until the last job has ended: the policy and the settings of
 * the product, the queue's published rule, jobs of one picture. Same config, same result to the last bit.
 *
 * Left out, for being below the spread of a job's time: the round trip between two jobs (10 to 40 ms), beats, images
 * of jobs with several, and batch jobs, for which the queue has no other place.
 */
export function simulate(config: SimulationConfig): World {
  const world = createWorld(config)
  const { events, jobs, gpus } = world
  const { seconds } = config.arrivals
  let next = 0
  startFleet(world)
  events.push(0, EVENT.sweep, 0, 0)
  while (next < seconds.length || jobs.open > 0) {
    const arrivesAt = next < seconds.length ? read(seconds, next) : Infinity
    if (arrivesAt <= events.nextAt()) {
      world.now = arrivesAt
      acceptJob(world, next++)
      // The first job after idleness does not wait for the sweep: the gateway asks for a GPU itself.
      if (gpus.busy + gpus.idle.length + gpus.starting === 0) scale(world)
    } else {
      events.pop()
      world.now = events.popped.at
      happen(world, events.popped)
    }
    dispatch(world)
  }
  for (let gpu = 0; gpu < gpus.state.length; gpu++) {
    if (read(gpus.state, gpu) !== GPU.none) remove(world, gpu)
  }
  return world
}

/** The least that there is at any time is there from the start. */
function startFleet(world: World): void {
  scale(world)
  world.gpus.lastOutAt = -Infinity
  const { gpus } = world
  for (let gpu = 0; gpu < gpus.state.length; gpu++) {
    if (read(gpus.state, gpu) === GPU.starting) onReady(world, gpu, read(gpus.attempt, gpu))
  }
}

function happen(world: World, event: World['events']['popped']): void {
  const { kind, about, stamp } = event
  switch (kind) {
    case EVENT.attemptEnds:
      return onAttemptEnds(world, about, stamp)
    case EVENT.ready:
      return onReady(world, about, stamp)
    case EVENT.notice:
      return onNotice(world, about, stamp)
    case EVENT.shown:
      return showJob(world, about)
    default:
      return sweep(world)
  }
}

function sweep(world: World): void {
  const { gpus, jobs, now } = world
  expireJobs(world)
  scale(world)
  world.samples.push({
    at: now,
    waiting: jobs.waitingBySize.reduce((sum, count) => sum + count, 0),
    busy: gpus.busy + gpus.draining,
    running: gpus.busy + gpus.idle.length + gpus.draining,
    starting: gpus.starting,
  })
  world.events.push(now + SWEEP_SECONDS, EVENT.sweep, 0, 0)
}
