/**
 * How many GPUs there should be. Pure: the same snapshot, the same answer; whoever calls it starts and stops.
 */

export interface Work {
  readonly sizeClass: string
  readonly jobs: number
  /** What all of them hold GPUs, by the mean of their class. */
  readonly gpuSeconds: number
}

export interface FleetSnapshot {
  readonly nowMs: number
  /** Open jobs that no live worker holds. What runs is left out: a GPU that works on it is there already. */
  readonly waiting: readonly Work[]
  /** The same of jobs that may take a day. */
  readonly patient: readonly Work[]
  /** Of the standard jobs that nobody has begun. */
  readonly oldestWaitSeconds: number
  /** Idle or at work, and willing to take another job. */
  readonly running: number
  /** Of those that run. */
  readonly busy: number
  readonly starting: number
  /** On their way out: they take nothing, but cost and count against every limit till they are gone. */
  readonly draining: number
  /**
   * For how long at least 1, 2, 3... GPUs have been idle at the same time (`noteIdle`). The queue spreads messages
   * over all who wait, so that in a fleet four fifths of which are idle no single one is idle for long.
   */
  readonly spareSeconds: readonly number[]
  /** Infinity when nothing was started or stopped yet. */
  readonly sinceScaleOutSeconds: number
  readonly sinceScaleInSeconds: number
}

export interface Floor {
  /** Days of the week in UTC, 0 for Sunday. */
  readonly days: readonly number[]
  /** Minutes of the day in UTC; the end is not within, and one before the start is of the next day. */
  readonly fromMinute: number
  readonly toMinute: number
  readonly gpus: number
}

export interface ScalingSettings {
  readonly minGpus: number
  readonly maxGpus: number
  readonly floors: readonly Floor[]
  readonly costCapPerHour: number
  /** The most that one may cost: on demand, also where spot is hoped for. */
  readonly pricePerGpuHour: number
  readonly coldStartSeconds: number
  readonly backlogTargetSeconds: number
  readonly promisedWaitSeconds: number
}

export interface ScalingDecision {
  /** GPUs that should run or start; without those that drain. */
  readonly desired: number
  readonly reason: string
}

/**
 * From launch to the first job: instance 30 s, 36 GB of weights by parallel reads 60 to 120 s, sessions 24 s (measured,
 * `test/bench/results/real-size.json`). To be replaced by what the first real fleet shows.
 */
export const COLD_START_SECONDS = 180
/** A promise that a fleet at 70 % keeps for most; below it the second number says more about luck than about want. */
export const PROMISED_WAIT_SECONDS = 60
/**
 * What is tolerated to wait for each GPU. Two thirds of a cold start: less is worked off before help could come. By
 * `npm run simulate` (120 jobs an hour, 0 to 16 GPUs) p95 of the wait and cost of an image are 70 s and $0.341 with a
 * target of 60, 101 s and $0.286 with 120, 125 s and $0.280 with 180.
 */
export const BACKLOG_TARGET_SECONDS = 120
/** What may take a day is worth another GPU only when it would keep the present ones busy for so long. */
export const PATIENT_TARGET_SECONDS = 4 * 3_600
/**
 * Over three starts: keeping one for a start's time costs as much as starting it again, and a start costs patience too.
 * By the same simulation 360 make 159 starts a day and a p95 of 145 s, 600 make 100 and 101 s for 4 % more money, 900
 * make 71 and 66 s for another 8 %.
 */
export const IDLE_SECONDS = 600
/** The last one: with it goes the prompt answer to whoever comes next. */
export const LAST_IDLE_SECONDS = 900
/** The utilisation that a smaller fleet must not pass: at 70 % four GPUs make one caller in eight wait for a job's time. */
export const PLANNED_UTILISATION = 0.7
/** Between two steps in: what the first has done to the idle times shows only then. */
export const SCALE_IN_PAUSE_SECONDS = 60

/**
 * Decides by these rules, the first that applies first: no limit is passed; a floor is kept; backlog seconds for each
 * GPU, and the age of the oldest job, ask for more; only GPUs that were to spare for a while go.
 */
export function decideScale(snapshot: FleetSnapshot, settings: ScalingSettings): ScalingDecision {
  const { ceiling, limit } = ceilingOf(snapshot, settings)
  const floor = Math.max(settings.minGpus, floorAt(settings.floors, snapshot.nowMs))
  const wish = wishOf(snapshot, settings, floor)
  const desired = Math.max(wish.desired, floor)
  if (desired > ceiling) return { desired: ceiling, reason: `${wish.reason}; ${limit}` }
  if (desired > wish.desired) return { desired, reason: `the floor is ${floor}` }
  return wish
}

function ceilingOf(
  { draining }: FleetSnapshot,
  settings: ScalingSettings,
): { ceiling: number; limit: string } {
  // A hair more, so that 3 x 6.88 of a cap of 20.64 is not lost to binary fractions.
  const affordable = Math.floor(settings.costCapPerHour / settings.pricePerGpuHour + 1e-9)
  const isCost = affordable < settings.maxGpus
  const most = Math.min(affordable, settings.maxGpus)
  const limit = isCost
    ? `$${settings.costCapPerHour} an hour buy ${affordable}`
    : `${settings.maxGpus} is the most allowed`
  return {
    ceiling: Math.max(0, most - draining),
    limit: draining > 0 ? `${limit}, ${draining} still drain` : limit,
  }
}

/** The highest floor in force. */
export function floorAt(floors: readonly Floor[], nowMs: number): number {
  const now = new Date(nowMs)
  const minute = now.getUTCHours() * 60 + now.getUTCMinutes()
  const day = now.getUTCDay()
  const isWithin = ({ days, fromMinute, toMinute }: Floor) => {
    if (fromMinute <= toMinute)
      return days.includes(day) && minute >= fromMinute && minute < toMinute
    const begun = days.includes(day) && minute >= fromMinute
    return begun || (days.includes((day + 6) % 7) && minute < toMinute)
  }
  return Math.max(0, ...floors.filter(isWithin).map(({ gpus }) => gpus))
}

function wishOf(
  snapshot: FleetSnapshot,
  settings: ScalingSettings,
  floor: number,
): ScalingDecision {
  const { waiting, patient, running, starting, oldestWaitSeconds } = snapshot
  const current = running + starting
  const prompt = sumOf(waiting)
  const rest = sumOf(patient)
  if (prompt.jobs + rest.jobs === 0) return wishWithoutWork(snapshot, floor)
  const needed = Math.max(
    1,
    Math.ceil(
      prompt.gpuSeconds / settings.backlogTargetSeconds + rest.gpuSeconds / PATIENT_TARGET_SECONDS,
    ),
  )
  if (current === 0)
    return { desired: needed, reason: `first jobs after idleness: ${prompt.jobs + rest.jobs}` }
  if (needed > current) {
    const each = Math.round(prompt.gpuSeconds / current)
    return { desired: needed, reason: `${each} backlog seconds for each of ${current} GPUs` }
  }
  // One that starts is the answer already, and one that just started has not yet shown what it changes.
  const isAnswered =
    starting > 0 || snapshot.sinceScaleOutSeconds < settings.coldStartSeconds || prompt.jobs === 0
  if (oldestWaitSeconds > settings.promisedWaitSeconds && !isAnswered) {
    const age = Math.round(oldestWaitSeconds)
    return { desired: current + 1, reason: `the oldest job has waited ${age} s` }
  }
  return { desired: current, reason: 'jobs wait, and those that run will do' }
}

/** In on idleness only, and only to what the jobs that run leave at the planned utilisation. */
function wishWithoutWork(snapshot: FleetSnapshot, floor: number): ScalingDecision {
  const { running, busy, starting, spareSeconds } = snapshot
  const current = running + starting
  const stay = (reason: string) => ({ desired: current, reason })
  if (starting > 0) return stay('nothing waits, some still start')
  if (
    snapshot.sinceScaleOutSeconds < IDLE_SECONDS ||
    snapshot.sinceScaleInSeconds < SCALE_IN_PAUSE_SECONDS
  ) {
    return stay('nothing waits, too soon after the last step')
  }
  const spare = spareSeconds.filter((seconds) => seconds >= IDLE_SECONDS).length
  const isLastSpare = (spareSeconds[current - 1] ?? 0) >= LAST_IDLE_SECONDS
  const least = Math.max(floor, Math.ceil(busy / PLANNED_UTILISATION), isLastSpare ? 0 : 1)
  const desired = Math.max(least, running - Math.min(spare, running - busy))
  if (desired >= current) return stay('nothing waits, none is to spare')
  return { desired, reason: `${current - desired} idle for ${IDLE_SECONDS} s and more` }
}

function sumOf(work: readonly Work[]): { jobs: number; gpuSeconds: number } {
  let jobs = 0
  let gpuSeconds = 0
  for (const part of work) {
    jobs += part.jobs
    gpuSeconds += part.gpuSeconds
  }
  return { jobs, gpuSeconds }
}

/**
 * Keeps book of since when at least 1, 2, 3... GPUs have been idle at once.
 *
 * @param since by number of GPUs less one, changed in place
 */
export function noteIdle(since: number[], idle: number, nowSeconds: number): void {
  if (since.length > idle) since.length = idle
  while (since.length < idle) since.push(nowSeconds)
}

/**
 * The most unfinished jobs for one tenant (`max_inflight` of an organisation, which reserving never passes): what the
 * fleet works off within the promised time, so that nobody's flood is a longer wait than that for others, whatever
 * the queue does; and never less than the GPUs there are, so that one tenant alone may use them all.
 */
export function tenantCap(input: {
  gpus: number
  meanJobSeconds: number
  drainSeconds: number
}): number {
  const { gpus, meanJobSeconds, drainSeconds } = input
  return Math.max(1, gpus, Math.floor((gpus * drainSeconds) / meanJobSeconds))
}
