import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  BACKLOG_TARGET_SECONDS,
  COLD_START_SECONDS,
  decideScale,
  floorAt,
  IDLE_SECONDS,
  LAST_IDLE_SECONDS,
  noteIdle,
  PATIENT_TARGET_SECONDS,
  PROMISED_WAIT_SECONDS,
  tenantCap,
} from '../../../infra/fleet/scaling-policy.ts'
import type {
  FleetSnapshot,
  Floor,
  ScalingSettings,
  Work,
} from '../../../infra/fleet/scaling-policy.ts'

const RUNS = { numRuns: 500, seed: 25_11_2026 }
const WEDNESDAY_NOON = Date.UTC(2026, 10, 25, 12)

const SETTINGS: ScalingSettings = {
  minGpus: 0,
  maxGpus: 20,
  floors: [],
  costCapPerHour: 1_000,
  pricePerGpuHour: 6.88,
  coldStartSeconds: COLD_START_SECONDS,
  backlogTargetSeconds: BACKLOG_TARGET_SECONDS,
  promisedWaitSeconds: PROMISED_WAIT_SECONDS,
}

function snapshotOf(changes: Partial<FleetSnapshot>): FleetSnapshot {
  return {
    nowMs: WEDNESDAY_NOON,
    waiting: [],
    patient: [],
    oldestWaitSeconds: 0,
    running: 0,
    busy: 0,
    starting: 0,
    draining: 0,
    spareSeconds: [],
    sinceScaleOutSeconds: Infinity,
    sinceScaleInSeconds: Infinity,
    ...changes,
  }
}

function jobs(count: number, gpuSeconds = count * 64): Work[] {
  return count === 0 ? [] : [{ sizeClass: 'medium', jobs: count, gpuSeconds }]
}

const anyFloor: fc.Arbitrary<Floor> = fc.record({
  days: fc.uniqueArray(fc.integer({ min: 0, max: 6 })),
  fromMinute: fc.integer({ min: 0, max: 1_439 }),
  toMinute: fc.integer({ min: 0, max: 1_440 }),
  gpus: fc.integer({ min: 0, max: 30 }),
})
const anySettings: fc.Arbitrary<ScalingSettings> = fc
  .record({
    maxGpus: fc.integer({ min: 0, max: 40 }),
    least: fc.integer({ min: 0, max: 40 }),
    floors: fc.array(anyFloor, { maxLength: 3 }),
    costCapPerHour: fc.double({ min: 0, max: 300, noNaN: true }),
    pricePerGpuHour: fc.double({ min: 0.5, max: 20, noNaN: true }),
    backlogTargetSeconds: fc.integer({ min: 10, max: 600 }),
    promisedWaitSeconds: fc.integer({ min: 10, max: 600 }),
  })
  .map(({ least, ...rest }) => ({
    ...SETTINGS,
    ...rest,
    minGpus: Math.min(least, rest.maxGpus),
  }))
const anyWork: fc.Arbitrary<Work[]> = fc.array(
  fc.record({
    sizeClass: fc.constantFrom('small', 'medium', 'large'),
    jobs: fc.integer({ min: 1, max: 500 }),
    gpuSeconds: fc.double({ min: 0, max: 100_000, noNaN: true }),
  }),
  { maxLength: 3 },
)
const sometimes = fc.oneof(fc.constant(Infinity), fc.double({ min: 0, max: 2_000, noNaN: true }))
const anySnapshot: fc.Arbitrary<FleetSnapshot> = fc
  .record({
    nowMs: fc.integer({ min: WEDNESDAY_NOON, max: WEDNESDAY_NOON + 7 * 86_400_000 }),
    waiting: anyWork,
    patient: anyWork,
    oldestWaitSeconds: fc.double({ min: 0, max: 4_000, noNaN: true }),
    busy: fc.integer({ min: 0, max: 30 }),
    idleSeconds: fc.array(fc.integer({ min: 0, max: 3_000 }), { maxLength: 10 }),
    starting: fc.integer({ min: 0, max: 10 }),
    draining: fc.integer({ min: 0, max: 10 }),
    sinceScaleOutSeconds: sometimes,
    sinceScaleInSeconds: sometimes,
  })
  .map(({ idleSeconds, ...rest }) => ({
    ...rest,
    running: rest.busy + idleSeconds.length,
    spareSeconds: idleSeconds.toSorted((a, b) => b - a),
  }))

const costOf = (gpus: number, { pricePerGpuHour }: ScalingSettings) => gpus * pricePerGpuHour
const floorIn = (snapshot: FleetSnapshot, settings: ScalingSettings) =>
  Math.max(settings.minGpus, floorAt(settings.floors, snapshot.nowMs))

describe('limits', () => {
  test('what is desired and what drains together never cost more than the cap nor are more than the most', () => {
    fc.assert(
      fc.property(anySnapshot, anySettings, (snapshot, settings) => {
        const { desired } = decideScale(snapshot, settings)
        expect(Number.isInteger(desired) && desired >= 0).toBe(true)
        if (desired === 0) return
        expect(desired + snapshot.draining).toBeLessThanOrEqual(settings.maxGpus)
        const cost = costOf(desired + snapshot.draining, settings)
        expect(cost).toBeLessThanOrEqual(settings.costCapPerHour * (1 + 1e-9))
      }),
      RUNS,
    )
  })

  test('a floor is kept unless the next GPU would pass a limit', () => {
    fc.assert(
      fc.property(anySnapshot, anySettings, (snapshot, settings) => {
        const { desired } = decideScale(snapshot, settings)
        if (desired >= floorIn(snapshot, settings)) return
        const oneMore = desired + 1 + snapshot.draining
        const isBeyond =
          oneMore > settings.maxGpus || costOf(oneMore, settings) > settings.costCapPerHour
        expect(isBeyond).toBe(true)
      }),
      RUNS,
    )
  })

  test('a cap of exactly three GPUs buys three', () => {
    const settings = { ...SETTINGS, costCapPerHour: 20.64 }
    const answer = decideScale(snapshotOf({ waiting: jobs(100) }), settings)
    expect(answer.desired).toBe(3)
    expect(answer.reason).toContain('$20.64 an hour buy 3')
  })
})

describe('out', () => {
  test('more work never asks for fewer GPUs', () => {
    fc.assert(
      fc.property(anySnapshot, anyWork, anySettings, (snapshot, more, settings) => {
        const less = decideScale(snapshot, settings).desired
        const waiting = [...snapshot.waiting, ...more]
        expect(decideScale({ ...snapshot, waiting }, settings).desired).toBeGreaterThanOrEqual(less)
        const patient = [...snapshot.patient, ...more]
        expect(decideScale({ ...snapshot, patient }, settings).desired).toBeGreaterThanOrEqual(less)
      }),
      RUNS,
    )
  })

  test('the first job starts the first GPU at once, whatever was done a moment ago', () => {
    fc.assert(
      fc.property(anySnapshot, anySettings, (snapshot, settings) => {
        const empty = { ...snapshot, running: 0, busy: 0, starting: 0, spareSeconds: [] }
        const first = { ...empty, draining: 0, waiting: jobs(1), sinceScaleInSeconds: 0 }
        const isAllowed =
          settings.maxGpus > 0 && settings.costCapPerHour >= settings.pricePerGpuHour
        expect(decideScale(first, settings).desired >= 1).toBe(isAllowed)
      }),
      RUNS,
    )
  })

  test('backlog seconds count, not messages', () => {
    const fleet = { running: 2, busy: 2 }
    expect(decideScale(snapshotOf({ ...fleet, waiting: jobs(8, 240) }), SETTINGS).desired).toBe(2)
    expect(decideScale(snapshotOf({ ...fleet, waiting: jobs(2, 500) }), SETTINGS).desired).toBe(5)
  })

  test('GPUs that start count as an answer', () => {
    const waiting = jobs(8, 500)
    expect(decideScale(snapshotOf({ starting: 5, waiting }), SETTINGS).desired).toBe(5)
    const old = snapshotOf({ running: 1, busy: 1, starting: 4, waiting, oldestWaitSeconds: 300 })
    expect(decideScale(old, SETTINGS).desired).toBe(5)
  })

  test('one job that waits too long asks for one more, and again only after a cold start', () => {
    const late = snapshotOf({ running: 2, busy: 2, waiting: jobs(1), oldestWaitSeconds: 61 })
    expect(decideScale(late, SETTINGS)).toEqual({
      desired: 3,
      reason: 'the oldest job has waited 61 s',
    })
    const soon = { ...late, sinceScaleOutSeconds: COLD_START_SECONDS - 1 }
    expect(decideScale(soon, SETTINGS).desired).toBe(2)
  })

  test('work that may take a day wakes one GPU and no more till it would take hours', () => {
    const patient = jobs(100)
    expect(decideScale(snapshotOf({ patient }), SETTINGS).desired).toBe(1)
    const much = jobs(1_000, 2.5 * PATIENT_TARGET_SECONDS)
    expect(decideScale(snapshotOf({ patient: much }), SETTINGS).desired).toBe(3)
  })
})

describe('in', () => {
  test('a GPU at work is never asked to go, but by a limit', () => {
    fc.assert(
      fc.property(anySnapshot, anySettings, (snapshot, settings) => {
        const { desired } = decideScale(snapshot, settings)
        const ceiling = decideScale({ ...snapshot, waiting: jobs(1e6) }, settings).desired
        expect(desired).toBeGreaterThanOrEqual(Math.min(snapshot.busy, ceiling))
      }),
      RUNS,
    )
  })

  test('only what was to spare long enough goes, and room is left for what runs', () => {
    const spareSeconds = [IDLE_SECONDS + 90, IDLE_SECONDS, IDLE_SECONDS - 1]
    const calm = snapshotOf({ running: 4, busy: 1, spareSeconds })
    expect(decideScale(calm, SETTINGS).desired).toBe(2)
    expect(decideScale({ ...calm, running: 6, busy: 3 }, SETTINGS).desired).toBe(5)
    expect(decideScale({ ...calm, waiting: jobs(1) }, SETTINGS).desired).toBe(4)
    expect(decideScale({ ...calm, sinceScaleInSeconds: 10 }, SETTINGS).desired).toBe(4)
  })

  test('the last one stays longer', () => {
    const alone = (seconds: number) => snapshotOf({ running: 1, spareSeconds: [seconds] })
    expect(decideScale(alone(LAST_IDLE_SECONDS - 1), SETTINGS).desired).toBe(1)
    expect(decideScale(alone(LAST_IDLE_SECONDS), SETTINGS).desired).toBe(0)
  })

  test('spare is what was idle at the same time all along, whichever they were', () => {
    const since: number[] = []
    noteIdle(since, 3, 0)
    noteIdle(since, 1, 10)
    noteIdle(since, 2, 20)
    expect(since).toEqual([0, 20])
  })
})

describe('steadiness', () => {
  test('on constant input the fleet goes one way and comes to rest', () => {
    fc.assert(
      fc.property(anySnapshot, anySettings, (begin, settings) => {
        const frozen = { ...settings, floors: [] }
        const path = followConstant(begin, frozen)
        const steps = path.slice(1).map((gpus, index) => Math.sign(gpus - (path[index] ?? gpus)))
        const directions = new Set(steps.filter((step) => step !== 0))
        expect(directions.size).toBeLessThanOrEqual(1)
        expect(new Set(path.slice(-20)).size).toBe(1)
      }),
      { ...RUNS, numRuns: 200 },
    )
  })
})

/** The fleet does what is decided, every 15 s for hours, while the same jobs wait and the same run. */
function followConstant(begin: FleetSnapshot, settings: ScalingSettings): number[] {
  const tick = 15
  let snapshot = { ...begin, draining: 0 }
  const starts: number[] = Array.from({ length: snapshot.starting }, () => COLD_START_SECONDS)
  const path: number[] = []
  for (let now = 0; now < 6 * 3_600; now += tick) {
    const current = snapshot.running + snapshot.starting
    const { desired } = decideScale(snapshot, settings)
    path.push(desired)
    for (let made = current; made < desired; made++) starts.push(now + COLD_START_SECONDS)
    const ready = starts.filter((at) => at <= now).length
    starts.splice(0, starts.length, ...starts.filter((at) => at > now))
    const running = Math.min(snapshot.running, desired) + ready
    const busy = Math.min(snapshot.busy, running)
    const kept = snapshot.spareSeconds.slice(0, running - busy).map((seconds) => seconds + tick)
    while (kept.length < running - busy) kept.push(0)
    snapshot = {
      ...snapshot,
      running,
      busy,
      starting: starts.length,
      spareSeconds: kept,
      sinceScaleOutSeconds: desired > current ? 0 : snapshot.sinceScaleOutSeconds + tick,
      sinceScaleInSeconds: desired < current ? 0 : snapshot.sinceScaleInSeconds + tick,
    }
  }
  return path
}

describe('floors', () => {
  const hours: Floor = { days: [1, 2, 3, 4, 5], fromMinute: 480, toMinute: 1_080, gpus: 2 }
  const night: Floor = { days: [3], fromMinute: 1_320, toMinute: 360, gpus: 5 }
  const at = (day: number, hour: number, minute = 0) => Date.UTC(2026, 10, day, hour, minute)

  test.each([
    ['on a workday within hours', at(25, 12), 2],
    ['from the first minute', at(25, 8), 2],
    ['but not in the last', at(25, 18), 0],
    ['nor at the weekend', at(28, 12), 0],
    ['over midnight', at(26, 5, 59), 5],
    ['till it ends', at(26, 6), 0],
    ['and not in the night before', at(25, 3), 0],
  ])('a floor holds %s', (_name, nowMs, gpus) => {
    expect(floorAt([hours, night], nowMs)).toBe(gpus)
  })

  test('one in force keeps idle GPUs', () => {
    const idle = snapshotOf({ running: 2, spareSeconds: [5_000, 5_000] })
    expect(decideScale(idle, { ...SETTINGS, floors: [hours] }).desired).toBe(2)
    expect(decideScale(snapshotOf({}), { ...SETTINGS, floors: [hours] })).toEqual({
      desired: 2,
      reason: 'the floor is 2',
    })
  })
})

describe('cap of a tenant', () => {
  test('is what the fleet works off in the promised time, and at least the fleet', () => {
    expect(tenantCap({ gpus: 4, meanJobSeconds: 60, drainSeconds: 600 })).toBe(40)
    expect(tenantCap({ gpus: 4, meanJobSeconds: 253, drainSeconds: 60 })).toBe(4)
    expect(tenantCap({ gpus: 0, meanJobSeconds: 60, drainSeconds: 60 })).toBe(1)
  })
})
