import type { Floor } from '../fleet/scaling-policy.ts'
import type { Environment } from './environments.ts'
import * as prices from './prices.ts'

const MONTH_HOURS = 730
const WEEKS_PER_MONTH = MONTH_HOURS / (7 * 24)
/** As published, in binary billions. */
const MODEL_GIB = 36
/** A first guess at the books of a year; a job with its ledger entries is about 5 kB. */
const DATABASE_GIB = 50
/** Pepper, worker, tunnel, database. */
const SECRETS = 4
const ALARMS = 5
const CONNECTORS = 2
/** Of a connector's disk. */
const CONNECTOR_GIB = 8
/** By the reference implementation on an H100, and planned as the scaling policy plans it. */
const SECONDS_PER_IMAGE = 64
const UTILISATION = 0.6

export interface CostLine {
  readonly what: string
  readonly dollars: number
}

/** What an environment costs in a month without a single job; its floors of GPUs are the last line. */
export function idleCost(environment: Environment): CostLine[] {
  const { database, fleet } = environment
  const month = (perHour: number) => perHour * MONTH_HOURS
  return [
    {
      what: 'database, idle',
      dollars:
        month(database.minAcu * (1 + database.readers) * prices.ACU_HOUR_DOLLARS) +
        DATABASE_GIB * prices.DATABASE_GIB_MONTH_DOLLARS,
    },
    {
      what: 'way to the database',
      dollars:
        CONNECTORS *
        (month(prices.TUNNEL_HOUR_DOLLARS + prices.PUBLIC_ADDRESS_HOUR_DOLLARS) +
          CONNECTOR_GIB * prices.EBS_GIB_MONTH_DOLLARS),
    },
    { what: 'weights', dollars: MODEL_GIB * prices.S3_GIB_MONTH_DOLLARS },
    {
      what: 'watching, secrets, keys',
      dollars:
        SECRETS * prices.SECRET_MONTH_DOLLARS +
        6 * prices.METRIC_MONTH_DOLLARS +
        ALARMS * prices.ALARM_MONTH_DOLLARS +
        prices.DASHBOARD_MONTH_DOLLARS +
        prices.KEY_MONTH_DOLLARS,
    },
    { what: 'Cloudflare Workers', dollars: prices.WORKERS_MONTH_DOLLARS },
    {
      what: 'floor of GPUs',
      dollars: floorHours(fleet.floors) * prices.HOURLY_DOLLARS['p5.4xlarge'],
    },
  ]
}

/** GPU-hours of a month that the schedule asks for; floors that overlap count twice. */
export function floorHours(floors: readonly Floor[]): number {
  return floors.reduce((sum, { days, fromMinute, toMinute, gpus }) => {
    const minutes = (toMinute - fromMinute + 1_440) % 1_440
    return sum + (days.length * minutes * gpus * WEEKS_PER_MONTH) / 60
  }, 0)
}

/** The table of the deploy page, in Markdown. */
export function costTable(environments: readonly Environment[]): string {
  const columns = environments.map((environment) => {
    const idle = idleCost(environment)
    const card = prices.HOURLY_DOLLARS['p5.4xlarge']
    const perImage = (perHour: number) => (perHour * SECONDS_PER_IMAGE) / 3_600 / UTILISATION
    return [
      ...idle.map(({ dollars }) => whole(dollars)),
      whole(idle.reduce((sum, { dollars }) => sum + dollars, 0)),
      `${card.toFixed(2)} / ${(card * prices.SPOT_SHARE).toFixed(2)}`,
      `${perImage(card).toFixed(3)} / ${perImage(card * prices.SPOT_SHARE).toFixed(3)}`,
      whole(environment.fleet.costCapPerHour * MONTH_HOURS),
      whole(environment.monthlyBudgetDollars),
    ]
  })
  const first = environments[0]
  const labels = [
    ...(first === undefined ? [] : idleCost(first).map(({ what }) => what)),
    '**in all without a job**',
    'one H100 for an hour, on demand / spot',
    `a 1024x1024 at ${SECONDS_PER_IMAGE} s and ${UTILISATION * 100} % use, on demand / spot`,
    'the most that the cost cap lets GPUs cost',
    'budget alarm',
  ]
  const row = (cells: readonly string[]) => `| ${cells.join(' | ')} |`
  return [
    row([
      `dollars a month, prices of ${prices.PRICES_OF}`,
      ...environments.map(({ name }) => name),
    ]),
    row(['---', ...environments.map(() => '---:')]),
    ...labels.map((label, index) => row([label, ...columns.map((cells) => cells[index] ?? '')])),
  ].join('\n')
}

function whole(dollars: number): string {
  return Math.round(dollars).toLocaleString('en-US')
}
