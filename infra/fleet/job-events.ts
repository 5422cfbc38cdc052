import {
  BEAT_SECONDS,
  MAX_RECEIVES,
  retrySecondsAfter,
  VISIBILITY_SECONDS,
} from '../../gpu-worker/settings.ts'
import { read } from './heaps.ts'
import { noteIdle } from './scaling-policy.ts'
import { END, EVENT, GPU, PHASE } from './world.ts'
import type { Ended, World } from './world.ts'

/** A dead letter is read, the job gets a new message, and a sweep sends it: `gpu-worker/dead-letter.ts`, two rounds. */
const DEAD_LETTER_SECONDS = 60

/** Reserving (`max_inflight` in `db/functions/04_reserve.sql`) and the doorbell. */
export function acceptJob(world: World, job: number): void {
  const { jobs, config } = world
  const tenant = read(config.arrivals.tenantOf, job)
  if (read(jobs.openOf, tenant) >= config.tenantCap) {
    jobs.phase[job] = PHASE.refused
    jobs.endedAt[job] = world.now
    return
  }
  jobs.openOf[tenant] = read(jobs.openOf, tenant) + 1
  jobs.open += 1
  setWaiting(world, job, PHASE.waiting)
  world.queue.show(job, world.now, false)
}

/** Gives messages to workers that wait for one, one each (`gpu-worker/consume.ts`). */
export function dispatch(world: World): void {
  const { gpus, queue } = world
  while (gpus.idle.length > 0) {
    const job = queue.take(world.now)
    if (job === -1) return
    const gpu = gpus.idle.pop() as number
    noteIdle(gpus.idleSince, gpus.idle.length, world.now)
    gpus.state[gpu] = GPU.busy
    gpus.busy += 1
    if (!beginAttempt(world, gpu, job)) freeGpu(world, gpu)
  }
}

/** The order of answers is that of `claimJob` in `db/job-claims.ts`. @returns false when there is nothing to do */
function beginAttempt(world: World, gpu: number, job: number): boolean {
  const { jobs, gpus, config, now } = world
  jobs.receives[job] = read(jobs.receives, job) + 1
  const isOverdue = deadlineOf(world, job) <= now
  if (isOverdue || read(jobs.failures, job) >= MAX_RECEIVES) {
    endJob(world, job, isOverdue ? 'expired' : 'failed')
    world.queue.release(job, now)
    return false
  }
  const { waitingBySize } = jobs
  const size = read(config.arrivals.sizeOf, job)
  waitingBySize[size] = (waitingBySize[size] ?? 0) - 1
  jobs.phase[job] = PHASE.running
  if (Number.isNaN(read(jobs.firstStart, job))) jobs.firstStart[job] = now
  world.totals.attempts += 1
  const { end, seconds } = drawEnd(world, job)
  gpus.job[gpu] = job
  gpus.beganAt[gpu] = now
  gpus.end[gpu] = end
  gpus.attempt[gpu] = read(gpus.attempt, gpu) + 1
  world.events.push(now + seconds, EVENT.attemptEnds, gpu, read(gpus.attempt, gpu))
  return true
}

/** What comes first: the picture, an error, the end of the attempt's time or of the job's, or of the worker. */
function drawEnd(world: World, job: number): { end: number; seconds: number } {
  const { config, now } = world
  const { attempt } = world.random
  let seconds = read(config.arrivals.gpuSeconds, job)
  let end: number = END.done
  if (config.failShare > 0 && attempt.next() < config.failShare) {
    seconds *= attempt.next()
    end = END.failed
  }
  if (config.attemptSeconds < seconds) {
    seconds = config.attemptSeconds
    end = END.deadline
  }
  // A worker hears of the deadline with its next beat (`gpu-worker/beats.ts`).
  const left = Math.ceil((deadlineOf(world, job) - now) / BEAT_SECONDS) * BEAT_SECONDS
  if (left < seconds) {
    seconds = left
    end = END.expired
  }
  if (config.crashesPerGpuHour > 0) {
    const crash = attempt.exponential(3_600 / config.crashesPerGpuHour)
    if (crash < seconds) return { end: END.crashed, seconds: crash }
  }
  return { end, seconds }
}

/** What `runJob` in `gpu-worker/run-job.ts` says to database and queue at the end of an attempt. */
export function endAttempt(world: World, gpu: number): void {
  const { jobs, gpus, totals, now } = world
  const job = read(gpus.job, gpu)
  const seconds = now - read(gpus.beganAt, gpu)
  gpus.job[gpu] = -1
  switch (read(gpus.end, gpu)) {
    case END.done:
      totals.usefulSeconds += seconds
      endJob(world, job, 'succeeded')
      world.queue.release(job, now)
      return
    case END.expired:
      totals.lostSeconds += seconds
      endJob(world, job, 'expired')
      world.queue.release(job, now)
      return
    case END.crashed:
      // The message stays hidden for what is left of its last extension; the next claim counts the failure.
      totals.lostSeconds += seconds
      jobs.failures[job] = read(jobs.failures, job) + 1
      setWaiting(world, job, PHASE.hidden)
      showLater(world, job, VISIBILITY_SECONDS - (seconds % BEAT_SECONDS))
      return
    default: {
      totals.lostSeconds += seconds
      const failures = read(jobs.failures, job)
      const again = retrySecondsAfter(failures)
      jobs.failures[job] = failures + 1
      if (again !== null) {
        setWaiting(world, job, PHASE.hidden)
        showLater(world, job, again)
        return
      }
      endJob(world, job, 'failed')
      world.queue.release(job, now)
    }
  }
}

/** A worker that has to leave hands its job back, which is no failure of the job (`endStopped` of `run-job.ts`). */
export function giveBackJob(world: World, gpu: number): void {
  const { gpus, now } = world
  const job = read(gpus.job, gpu)
  world.totals.lostSeconds += now - read(gpus.beganAt, gpu)
  gpus.job[gpu] = -1
  gpus.attempt[gpu] = read(gpus.attempt, gpu) + 1
  setWaiting(world, job, PHASE.hidden)
  showLater(world, job, 0)
}

function showLater(world: World, job: number, seconds: number): void {
  world.events.push(world.now + seconds, EVENT.shown, job, 0)
}

/** A message is visible again, or goes to the dead letters and comes back as a new one. */
export function showJob(world: World, job: number): void {
  const { jobs, now } = world
  if (read(jobs.receives, job) >= MAX_RECEIVES) {
    jobs.receives[job] = 0
    showLater(world, job, DEAD_LETTER_SECONDS)
    return
  }
  world.queue.release(job, now)
  if (read(jobs.phase, job) !== PHASE.hidden) return
  jobs.phase[job] = PHASE.waiting
  world.queue.show(job, now, true)
}

/** The sweep's part of it (`billing/expire.ts`): ends waiting jobs past their deadline. */
export function expireJobs(world: World): void {
  const { jobs, config, now } = world
  const { seconds } = config.arrivals
  const count = seconds.length
  while (jobs.expiring < count && deadlineOf(world, jobs.expiring) <= now) {
    const job = jobs.expiring++
    const phase = read(jobs.phase, job)
    if (phase === PHASE.waiting || phase === PHASE.hidden) endJob(world, job, 'expired')
  }
}

/** Of the jobs that nobody has begun; 0 when there is none. */
export function oldestWait(world: World): number {
  const { jobs, config, now } = world
  const { seconds } = config.arrivals
  const isPast = (job: number) =>
    read(jobs.phase, job) > PHASE.running || !Number.isNaN(read(jobs.firstStart, job))
  while (jobs.oldest < seconds.length && isPast(jobs.oldest)) jobs.oldest += 1
  if (jobs.oldest >= seconds.length) return 0
  return Math.max(0, now - read(seconds, jobs.oldest))
}

/** Back to those who wait for work. */
export function freeGpu(world: World, gpu: number): void {
  const { gpus } = world
  gpus.state[gpu] = GPU.idle
  gpus.busy -= 1
  gpus.idle.push(gpu)
  noteIdle(gpus.idleSince, gpus.idle.length, world.now)
}

function deadlineOf({ config }: World, job: number): number {
  return read(config.arrivals.seconds, job) + config.deadlineSeconds
}

function setWaiting(
  { jobs, config }: World,
  job: number,
  phase: typeof PHASE.waiting | typeof PHASE.hidden,
): void {
  const size = read(config.arrivals.sizeOf, job)
  jobs.waitingBySize[size] = (jobs.waitingBySize[size] ?? 0) + 1
  jobs.phase[job] = phase
}

function endJob({ jobs, config, now }: World, job: number, how: Ended): void {
  const phase = read(jobs.phase, job)
  if (phase === PHASE.waiting || phase === PHASE.hidden) {
    const size = read(config.arrivals.sizeOf, job)
    jobs.waitingBySize[size] = (jobs.waitingBySize[size] ?? 0) - 1
  }
  const tenant = read(config.arrivals.tenantOf, job)
  jobs.openOf[tenant] = read(jobs.openOf, tenant) - 1
  jobs.open -= 1
  jobs.phase[job] = PHASE[how]
  jobs.endedAt[job] = now
}
