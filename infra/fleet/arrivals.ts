import type { Random } from './random.ts'
import { createRandom } from './random.ts'
import { SIZE_CLASSES } from '../../db/size-classes.ts'

/** What is asked of the fleet, in order of time; all arrays by job. */
export interface Arrivals {
  readonly seconds: Float64Array
  readonly tenantOf: Int32Array
  readonly sizeOf: Uint8Array
  /** What the job holds a GPU when nothing disturbs it. */
  readonly gpuSeconds: Float32Array
  readonly tenants: readonly string[]
  readonly horizonSeconds: number
}

export interface Flood {
  readonly jobs: number
  readonly atSeconds: number
}

export interface Arrival {
  readonly seconds: number
  readonly tenant: string
  /** Index among the size classes. */
  readonly size: number
}

/** How far a day swings around its mean: ten times as much at its height as at its lowest. */
const DAY_SWING = 9 / 11
const DAY_SECONDS = 86_400
/** In the afternoon of UTC, when Europe works and America has begun. */
const BUSIEST_SECONDS = 15 * 3_600
/** Tenants by Zipf's law, as sizes of customers mostly are: the second has half of the first, the tenth a tenth. */
const ZIPF = 1
const FLOODER = 'flood'

/** Random arrivals, by seed. @param input.rate jobs in an hour, by the mean of the whole */
export function drawArrivals(input: {
  seed: number
  shape: 'poisson' | 'diurnal'
  hours: number
  rate: number
  tenants: number
  /** Shares of the size classes. */
  mix: readonly number[]
  floods: readonly Flood[]
}): Arrivals {
  const random = createRandom(input.seed, 'arrivals')
  const names = Array.from({ length: input.tenants }, (_, index) => `tenant-${index + 1}`)
  const chooseTenant = chooser(names.map((_, index) => 1 / (index + 1) ** ZIPF))
  const chooseSize = chooser(input.mix)
  const horizonSeconds = input.hours * 3_600
  const swing = input.shape === 'diurnal' ? DAY_SWING : 0
  const gap = 3_600 / (input.rate * (1 + swing))
  const found: Arrival[] = []
  for (let at = random.exponential(gap); at < horizonSeconds; at += random.exponential(gap)) {
    const phase = Math.cos((2 * Math.PI * (at - BUSIEST_SECONDS)) / DAY_SECONDS)
    if (swing > 0 && random.next() * (1 + swing) > 1 + swing * phase) continue
    const tenant = names[chooseTenant(random)] ?? FLOODER
    found.push({ seconds: at, tenant, size: chooseSize(random) })
  }
  return toArrivals([...found, ...floodsOf(input.floods)], { seed: input.seed, horizonSeconds })
}

/** Each flood is one tenant's, the same for all floods, of the second size class, and comes in one moment. */
export function floodsOf(floods: readonly Flood[]): Arrival[] {
  return floods.flatMap(({ jobs, atSeconds }) =>
    Array.from({ length: jobs }, () => ({ seconds: atSeconds, tenant: FLOODER, size: 1 })),
  )
}

/** Puts arrivals in order and draws how long each holds a GPU. */
export function toArrivals(
  unordered: readonly Arrival[],
  { seed, horizonSeconds }: { seed: number; horizonSeconds: number },
): Arrivals {
  const random = createRandom(seed, 'job times')
  const arrivals = unordered.toSorted((a, b) => a.seconds - b.seconds)
  const numbers = new Map<string, number>()
  const numberOf = (tenant: string) => {
    const known = numbers.get(tenant)
    if (known !== undefined) return known
    numbers.set(tenant, numbers.size)
    return numbers.size - 1
  }
  const timeOf = (size: number) => {
    const { meanSeconds, spread } = SIZE_CLASSES[size] ?? { meanSeconds: 0, spread: 0 }
    return random.spread(meanSeconds, spread)
  }
  return {
    seconds: Float64Array.from(arrivals, ({ seconds }) => seconds),
    tenantOf: Int32Array.from(arrivals, ({ tenant }) => numberOf(tenant)),
    sizeOf: Uint8Array.from(arrivals, ({ size }) => size),
    gpuSeconds: Float32Array.from(arrivals, ({ size }) => timeOf(size)),
    tenants: [...numbers.keys()],
    horizonSeconds,
  }
}

/** Chooses an index with a chance in proportion to its weight. */
function chooser(weights: readonly number[]): (random: Random) => number {
  let sum = 0
  const sums = Float64Array.from(weights, (weight) => (sum += weight))
  return (random) => {
    const wanted = random.next() * sum
    let low = 0
    let high = sums.length - 1
    while (low < high) {
      const middle = (low + high) >> 1
      if ((sums[middle] ?? 0) <= wanted) low = middle + 1
      else high = middle
    }
    return low
  }
}
