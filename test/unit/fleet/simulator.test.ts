import { describe, expect, test } from 'vitest'
import type { Arrivals } from '../../../infra/fleet/arrivals.ts'
import { configOf } from '../../../infra/fleet/config.ts'
import { readOptions } from '../../../infra/fleet/options.ts'
import { createRandom } from '../../../infra/fleet/random.ts'
import { pageOf } from '../../../infra/fleet/report-page.ts'
import { reportOf, waitsOf } from '../../../infra/fleet/report.ts'
import type { Report } from '../../../infra/fleet/report.ts'
import { simulate } from '../../../infra/fleet/simulator.ts'
import { PHASE } from '../../../infra/fleet/world.ts'
import type { SimulationConfig, World } from '../../../infra/fleet/world.ts'

function configFor(typed: string, file = ''): SimulationConfig {
  const options = readOptions(typed.trim().split(' '))
  if (!options) throw new Error('help was asked for')
  return configOf(options, () => file)
}

function run(typed: string, changes: Partial<SimulationConfig> = {}): Report {
  return reportOf(simulate({ ...configFor(typed), ...changes }))
}

const TROUBLE =
  '--hours 12 --rate 400 --tenants 30 --gpus 1..14 --spot 0.5 --crashes 0.5 --failures 0.05 --seed 4'

describe('against theory', () => {
  /** The chance to wait, with random arrivals and exponential times on `servers`. */
  function erlangC(servers: number, load: number): number {
    let blocked = 1
    for (let count = 1; count <= servers; count++) {
      blocked = (load * blocked) / (count + load * blocked)
    }
    const utilisation = load / servers
    return blocked / (1 - utilisation * (1 - blocked))
  }

  function exponentialArrivals(jobs: number, gap: number, mean: number): Arrivals {
    const random = createRandom(25, `${gap}`)
    let at = 0
    return {
      seconds: Float64Array.from({ length: jobs }, () => (at += random.exponential(gap))),
      tenantOf: new Int32Array(jobs),
      sizeOf: new Uint8Array(jobs),
      gpuSeconds: Float32Array.from({ length: jobs }, () => random.exponential(mean)),
      tenants: ['all'],
      horizonSeconds: at,
    }
  }

  /** Waits in order of arrival, by the recursion of Kiefer and Wolfowitz: nothing of ours is in it. */
  function recursionWaits({ seconds, gpuSeconds }: Arrivals, servers: number): Float64Array {
    const freeAt = new Float64Array(servers)
    return seconds.map((at, job) => {
      const first = freeAt.indexOf(Math.min(...freeAt))
      const start = Math.max(at, freeAt[first]!)
      freeAt[first] = start + gpuSeconds[job]!
      return start - at
    })
  }

  // Short jobs, so that the sweeps of all that time do not take longer than the jobs.
  const MEAN_SECONDS = 0.5
  function played(servers: number, utilisation: number, jobs: number) {
    const gap = MEAN_SECONDS / (servers * utilisation)
    const arrivals = exponentialArrivals(jobs, gap, MEAN_SECONDS)
    const forever = { deadlineSeconds: Infinity, attemptSeconds: Infinity }
    const config = configFor(`--hours 0.01 --gpus ${servers}..${servers}`)
    return { arrivals, waits: waitsOf(simulate({ ...config, ...forever, arrivals })) }
  }

  test.each([
    [1, 0.6],
    [2, 0.7],
    [4, 0.7],
    [8, 0.7],
    [16, 0.7],
  ])(
    '%i GPUs at a load of %f wait as Erlang C says, within a twentieth',
    (servers, utilisation) => {
      const { waits } = played(servers, utilisation, 300_000)
      const chance = erlangC(servers, servers * utilisation)
      const expected = (chance * MEAN_SECONDS) / (servers * (1 - utilisation))
      const mean = waits.reduce((sum, wait) => sum + wait, 0) / waits.length
      expect(Math.abs(mean / expected - 1)).toBeLessThan(0.05)
      const waited = waits.reduce((sum, wait) => sum + (wait > 0 ? 1 : 0), 0) / waits.length
      expect(Math.abs(waited / chance - 1)).toBeLessThan(0.05)
    },
  )

  // Near saturation the mean of a run is off by more than that from luck alone, so each job is compared.
  test.each([
    [1, 0.95],
    [4, 0.9],
    [16, 0.97],
  ])(
    'every job on %i GPUs at a load of %f waits as long as queueing theory says',
    (servers, load) => {
      const { arrivals, waits } = played(servers, load, 50_000)
      const expected = recursionWaits(arrivals, servers)
      const furthest = waits.reduce(
        (most, wait, job) => Math.max(most, Math.abs(wait - expected[job]!)),
        0,
      )
      expect(furthest).toBeLessThan(1e-6)
    },
  )
})

describe('fairness', () => {
  /** 64 s jobs: one tenant asks for one a minute, the other for 200 in the tenth minute. */
  const CSV = [
    'seconds,tenant,size',
    ...Array.from({ length: 60 }, (_, minute) => `${minute * 60},quiet,medium`),
    ...Array.from({ length: 200 }, () => '600,loud,medium'),
  ].join('\n')
  const JOB_SECONDS = 64
  const flooded = (typed: string) => {
    const report = reportOf(simulate(configFor(`--arrivals x.csv --seed 7 ${typed}`, CSV)))
    expect([report.waits.quietest.tenant, report.waits.quietest.jobs]).toEqual(['quiet', 60])
    return { ...report, quiet: report.waits.quietest }
  }

  test('with the cap of a tenant a quiet one waits less than two job times while another sends 200 jobs', () => {
    const { quiet, jobs, tenantCap } = flooded('--gpus 4..4 --tenant-cap auto')
    expect(quiet.p95).toBeLessThan(2 * JOB_SECONDS)
    expect(quiet.p99).toBeLessThan(2 * JOB_SECONDS)
    expect(jobs.refused).toBeGreaterThan(100)
    // What four GPUs do of 64 s in five minutes.
    expect(tenantCap).toBe(18)
  })

  test('and on a fleet that grows', () => {
    const { quiet, jobs } = flooded('--gpus 4..16 --tenant-cap auto')
    expect(quiet.p95).toBeLessThan(2 * JOB_SECONDS)
    expect(jobs.succeeded).toBeGreaterThan(60 + 64)
  })

  test('without it the queue forgets the flood after five minutes, and the promise is broken', () => {
    expect(flooded('--gpus 4..4').quiet.p95).toBeGreaterThan(2 * JOB_SECONDS)
    expect(flooded('--gpus 4..16').quiet.p95).toBeGreaterThan(2 * JOB_SECONDS)
  })

  test('who goes on sending more than the fleet can do is held back by the queue alone, as plain age would not', () => {
    const rows = [
      ...CSV.split('\n').slice(0, 61),
      ...Array.from({ length: 360 }, (_, index) => `${index * 10},loud,medium`),
    ]
    const quietWait = (typed: string) => {
      const config = configFor(`--arrivals x.csv --gpus 4..4 ${typed}`, rows.join('\n'))
      return reportOf(simulate(config)).waits.quietest
    }
    const fair = quietWait('')
    expect(fair.tenant).toBe('quiet')
    expect(fair.p95).toBeLessThan(2 * JOB_SECONDS)
    expect(quietWait('--no-fair').p95).toBeGreaterThan(10 * JOB_SECONDS)
  })
})

describe('books', () => {
  test('whatever befalls the fleet, every job ends once and none is lost', () => {
    const world = simulate(configFor(TROUBLE))
    const { jobs, gpus, series } = reportOf(world)
    expect(jobs.lost).toBe(0)
    expect(jobs.retries).toBeGreaterThan(100)
    expect([gpus.spotNotices > 5, gpus.crashes > 5]).toEqual([true, true])
    const { succeeded, failed, expired, refused, arrived } = jobs
    expect(succeeded + failed + expired + refused).toBe(arrived)
    expect(world.jobs.open).toBe(0)
    expect([...world.jobs.openOf]).toEqual([...world.jobs.openOf].map(() => 0))
    expect(world.jobs.waitingBySize).toEqual([0, 0, 0])
    expect(series.at.length).toBeGreaterThan(100)
  })

  test('GPU time paid for is what worked, was lost and was idle', () => {
    const { totals } = simulate(configFor(TROUBLE))
    expect(totals.usefulSeconds + totals.lostSeconds).toBeLessThan(totals.paidSeconds)
    const cheap = run('--hours 6 --rate 200 --gpus 4..4 --spot 0')
    expect(cheap.dollars.total / cheap.gpus.paidHours).toBeCloseTo(6.88, 2)
    const spot = run('--hours 6 --rate 200 --gpus 4..4 --spot 1')
    expect(spot.dollars.total / spot.gpus.paidHours).toBeCloseTo(3.44, 2)
  })

  test('no moment costs more than the cap', () => {
    const capped = run('--hours 12 --rate 600 --gpus 0..40 --cap 50 --seed 2')
    expect(capped.dollars.mostPerHour).toBeLessThanOrEqual(50)
    expect(capped.gpus.most).toBe(7)
  })

  test('the same seed gives the same bytes, another seed others', () => {
    const bytes = (typed: string) => {
      const report = run(typed)
      return JSON.stringify(report) + pageOf(report, typed)
    }
    expect(bytes(TROUBLE)).toBe(bytes(TROUBLE))
    expect(bytes(TROUBLE)).not.toBe(bytes(`${TROUBLE.slice(0, -1)}5`))
  })
})

describe('rules', () => {
  const header = 'seconds,tenant,size\n'
  const one = (typed: string, rows: string, changes: Partial<SimulationConfig> = {}): World =>
    simulate({ ...configFor(`--arrivals x.csv ${typed}`, header + rows), ...changes })

  test('the first job after idleness starts a GPU without waiting for the sweep', () => {
    const world = one('--gpus 0..4', '1000.5,a,small')
    const start = world.jobs.firstStart[0]!
    expect(start).toBeGreaterThan(1_000.5 + 90)
    expect(world.gpus.launchedAt.some((at) => at === 1_000.5)).toBe(true)
  })

  test('a failing job is tried three times, 5 and 30 s apart, and ends', () => {
    const world = one('--gpus 1..1 --failures 1', '0,a,small')
    expect(world.totals.attempts).toBe(3)
    expect(world.jobs.phase[0]).toBe(PHASE.failed)
    const paused = world.jobs.endedAt[0]! - world.totals.lostSeconds
    expect(paused).toBeCloseTo(35, 6)
  })

  test('the job of a dead worker comes back 40 to 60 s later', () => {
    const changes = { crashesPerGpuHour: 3_600 / 200 }
    const { jobs, totals } = one('--gpus 2..2 --seed 5', '0,a,large', changes)
    expect(jobs.phase[0]).toBe(PHASE.succeeded)
    expect(totals.crashes).toBeGreaterThan(0)
    const worked = totals.lostSeconds + totals.usefulSeconds
    const hidden = (jobs.endedAt[0]! - worked) / totals.crashes
    expect(hidden).toBeGreaterThanOrEqual(40)
    expect(hidden).toBeLessThanOrEqual(60)
  })

  test('a job that waits past its deadline expires, and is in the figures with that wait', () => {
    const rows = Array.from({ length: 80 }, () => '0,a,medium').join('\n')
    const { jobs, waits } = reportOf(one('--gpus 1..1', rows))
    expect(jobs.expired).toBeGreaterThan(10)
    expect(jobs.lost).toBe(0)
    expect(waits.all.p99).toBeGreaterThanOrEqual(3_600)
  })

  test('beyond its cap a tenant is refused, and others are not', () => {
    const rows = ['0,a,small', '0,a,small', '0,a,small', '0,b,small'].join('\n')
    expect(reportOf(one('--gpus 1..1 --tenant-cap 2', rows)).jobs).toMatchObject({
      refused: 1,
      succeeded: 3,
    })
  })

  test('after a spot notice what ends soon is finished, the rest is handed back', () => {
    const typed = '--hours 12 --rate 300 --gpus 6..10 --spot 1 --seed 9'
    const handed = run(typed)
    const finished = run(`${typed} --finish-within 90`)
    expect(handed.jobs.retries).toBeGreaterThan(0)
    expect(finished.gpus.lostSeconds).toBeLessThan(handed.gpus.lostSeconds)
  })
})
