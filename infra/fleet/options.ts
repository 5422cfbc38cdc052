import { parseArgs } from 'node:util'
import { SIZE_CLASSES } from '../../db/size-classes.ts'
import { HOURLY_DOLLARS, SPOT_SHARE } from '../cdk/prices.ts'
import type { Flood } from './arrivals.ts'
import type { Floor } from './scaling-policy.ts'

export interface SimulateOptions {
  hours: number | null
  arrivals: 'poisson' | 'diurnal' | { file: string }
  rate: number
  tenants: number
  minGpus: number
  maxGpus: number
  spotShare: number
  seed: number
  floods: Flood[]
  floors: Floor[]
  mix: number[]
  costCapPerHour: number | null
  pricePerGpuHour: number
  coldStartSeconds: number | null
  isFair: boolean
  tenantCap: number | 'auto' | null
  finishWithinSeconds: number
  crashesPerGpuHour: number
  failShare: number
  out: string | null
}

const GPU_HOUR_DOLLARS = HOURLY_DOLLARS['p5.4xlarge']

export const HELP = `Usage: npm run simulate -- [options]

Plays a day of jobs against a fleet of GPUs on a virtual clock: the product's scaling policy, leases and retries, the
queue's fair selection. The same options give the same bytes.

  --hours N            of arrivals (24; with a file all of it)
  --arrivals KIND      poisson, diurnal, or a file of seconds,tenant,size (poisson)
  --rate N             jobs an hour in the mean (120)
  --tenants N          by Zipf's law (20)
  --mix A,B,C          shares of ${SIZE_CLASSES.map(({ name }) => name).join(', ')} pictures (20,65,15)
  --gpus MIN..MAX      (0..16)
  --floor HH:MM-HH:MM=N  at least N GPUs at these times of UTC, every day; may be repeated
  --cap USD            the most that the fleet may cost in an hour (none)
  --price USD          of a GPU-hour on demand; spot costs ${SPOT_SHARE * 100} % of it (${GPU_HOUR_DOLLARS})
  --cold-start N       seconds from launch to the first job (that of the policy)
  --spot SHARE         of GPUs that are spot, 0 to 1 (0)
  --finish-within N    after a spot notice, seconds of work left that are still done, less than 120 (0: as the worker does)
  --crashes N          of workers in a GPU-hour of work (0)
  --failures SHARE     of attempts, 0 to 1 (0)
  --flood JOBS@HOUR    by one tenant in one moment; may be repeated
  --tenant-cap N|auto  unfinished jobs of a tenant beyond which it is refused (none)
  --no-fair            plain order of age in the queue, to compare
  --seed N             (1)
  --out DIR            writes simulation.json and simulation.html there
  --help               this text`

/**
 * Reads the command line.
 *
 * @returns null when help is asked for
 * @throws naming the option and the rule
 */
export function readOptions(args: string[]): SimulateOptions | null {
  const values = parse(args)
  if (values.help) return null
  const isDrawn = values.arrivals === 'poisson' || values.arrivals === 'diurnal'
  if (!isDrawn && (values.rate !== undefined || values.tenants !== undefined)) {
    throw new Error(`--rate and --tenants: ${values.arrivals} says it all`)
  }
  const [minGpus, maxGpus] = readGpus(values.gpus)
  return {
    hours:
      values.hours === undefined && !isDrawn
        ? null
        : number('--hours', values.hours ?? '24', 0.01, 8_760),
    arrivals: isDrawn ? (values.arrivals as 'poisson') : { file: values.arrivals },
    rate: number('--rate', values.rate ?? '120', 0.01, 10_000_000),
    tenants: whole('--tenants', values.tenants ?? '20', 1, 1_000_000),
    minGpus,
    maxGpus,
    spotShare: number('--spot', values.spot, 0, 1),
    seed: whole('--seed', values.seed, 0, 2 ** 31),
    floods: values.flood.map(readFlood),
    floors: values.floor.map(readFloor),
    mix: readMix(values.mix),
    costCapPerHour: values.cap === undefined ? null : number('--cap', values.cap, 0, 1e7),
    pricePerGpuHour: number('--price', values.price, 0.01, 1_000),
    coldStartSeconds:
      values['cold-start'] === undefined
        ? null
        : number('--cold-start', values['cold-start'], 1, 3_600),
    isFair: !values['no-fair'],
    tenantCap: readCap(values['tenant-cap']),
    finishWithinSeconds: number('--finish-within', values['finish-within'], 0, 119),
    crashesPerGpuHour: number('--crashes', values.crashes, 0, 100),
    failShare: number('--failures', values.failures, 0, 1),
    out: values.out ?? null,
  }
}

function parse(args: string[]) {
  const text = { type: 'string' } as const
  const options = {
    hours: text,
    arrivals: { ...text, default: 'poisson' },
    rate: text,
    tenants: text,
    mix: { ...text, default: '20,65,15' },
    gpus: { ...text, default: '0..16' },
    floor: { ...text, multiple: true, default: [] as string[] },
    cap: text,
    price: { ...text, default: String(GPU_HOUR_DOLLARS) },
    'cold-start': text,
    spot: { ...text, default: '0' },
    'finish-within': { ...text, default: '0' },
    crashes: { ...text, default: '0' },
    failures: { ...text, default: '0' },
    flood: { ...text, multiple: true, default: [] as string[] },
    'tenant-cap': text,
    'no-fair': { type: 'boolean', default: false },
    seed: { ...text, default: '1' },
    out: text,
    help: { type: 'boolean', default: false },
  } as const
  try {
    return parseArgs({ args, options }).values
  } catch (cause) {
    const [problem] = (cause as Error).message.split('. ')
    throw new Error(`${problem}.\nAll options: npm run simulate -- --help`, { cause })
  }
}

function number(name: string, text: string, least: number, most: number): number {
  const value = text.trim() === '' ? NaN : Number(text)
  if (value >= least && value <= most) return value
  throw new Error(`${name} must be a number from ${least} to ${most}, not "${text}"`)
}

function whole(name: string, text: string, least: number, most: number): number {
  const value = number(name, text, least, most)
  if (Number.isInteger(value)) return value
  throw new Error(`${name} must be a whole number, not "${text}"`)
}

function readGpus(text: string): [number, number] {
  const [, least = '', most = ''] = /^(\d+)\.\.(\d+)$/.exec(text) ?? []
  const [min, max] = [Number(least), Number(most)]
  if (most !== '' && max >= 1 && max <= 100_000 && min <= max) return [min, max]
  throw new Error(`--gpus must be such as 0..16, at most 100000, not "${text}"`)
}

function readFlood(text: string): Flood {
  const [, jobs = '', hour = ''] = /^(\d{1,6})@(\d+(?:\.\d+)?)$/.exec(text) ?? []
  if (hour !== '') return { jobs: Number(jobs), atSeconds: Number(hour) * 3_600 }
  throw new Error(`--flood must be jobs and hour, such as 200@1.5, not "${text}"`)
}

function readFloor(text: string): Floor {
  const found = /^([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-4]):([0-5]\d)=(\d{1,5})$/.exec(text)
  if (!found) throw new Error(`--floor must be such as 08:00-18:00=4, not "${text}"`)
  const [fromHour = 0, fromMinute = 0, toHour = 0, toMinute = 0, gpus = 0] = found
    .slice(1)
    .map(Number)
  const days = [0, 1, 2, 3, 4, 5, 6]
  return { days, fromMinute: fromHour * 60 + fromMinute, toMinute: toHour * 60 + toMinute, gpus }
}

function readMix(text: string): number[] {
  const shares = text.split(',').map(Number)
  const isGood = shares.length === SIZE_CLASSES.length && shares.every((share) => share >= 0)
  if (isGood && shares.some((share) => share > 0)) return shares
  throw new Error(`--mix must be ${SIZE_CLASSES.length} shares, such as 20,65,15, not "${text}"`)
}

function readCap(text: string | undefined): number | 'auto' | null {
  if (text === undefined) return null
  return text === 'auto' ? 'auto' : whole('--tenant-cap', text, 1, 1e6)
}
