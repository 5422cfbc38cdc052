import type { Floor } from '../fleet/scaling-policy.ts'

/** What one deployment is. Plain data: nothing is looked up and nothing is read from the surroundings. */
export interface Environment {
  readonly name: 'staging' | 'production'
  /** Databases, buckets and keys survive a mistake, and their stacks cannot be deleted. */
  readonly isProtected: boolean
  /** Hears of alarms and of the budget. */
  readonly operatorEmail: string
  readonly fleet: FleetSize
  readonly database: DatabaseSize
  /** Of the whole account; the alarm goes off before it is spent. */
  readonly monthlyBudgetDollars: number
}

export interface FleetSize {
  /** One card each, with local NVMe; the first that can be had. */
  readonly instanceTypes: readonly GpuInstance[]
  /** On demand whatever happens to spot. */
  readonly onDemandBase: number
  /** Of what is above the base, in per cent. */
  readonly onDemandPercent: number
  readonly minGpus: number
  readonly maxGpus: number
  readonly floors: readonly Floor[]
  readonly costCapPerHour: number
}

export type GpuInstance = 'p5.4xlarge' | 'g6e.8xlarge' | 'g6e.4xlarge'

export interface DatabaseSize {
  /** Capacity units of Aurora: 2 GiB of memory each. */
  readonly minAcu: number
  readonly maxAcu: number
  readonly readers: number
  readonly backupDays: number
}

/** The H100 first: a p5.4xlarge is not always to be had, and an L40S draws the same picture at a third of the speed. */
const INSTANCES: readonly GpuInstance[] = ['p5.4xlarge', 'g6e.8xlarge', 'g6e.4xlarge']
const WORKDAYS = [1, 2, 3, 4, 5]

export const ENVIRONMENTS: readonly Environment[] = [
  {
    name: 'staging',
    isProtected: false,
    operatorEmail: 'operators@example.com',
    fleet: {
      instanceTypes: INSTANCES,
      onDemandBase: 0,
      onDemandPercent: 0,
      minGpus: 0,
      maxGpus: 2,
      floors: [],
      costCapPerHour: 14,
    },
    database: { minAcu: 0.5, maxAcu: 4, readers: 0, backupDays: 3 },
    monthlyBudgetDollars: 1_000,
  },
  {
    name: 'production',
    isProtected: true,
    operatorEmail: 'operators@example.com',
    fleet: {
      instanceTypes: INSTANCES,
      // The floor is kept by machines that nobody takes away.
      onDemandBase: 1,
      onDemandPercent: 30,
      minGpus: 0,
      maxGpus: 16,
      floors: [{ days: WORKDAYS, fromMinute: 7 * 60, toMinute: 19 * 60, gpus: 1 }],
      costCapPerHour: 112,
    },
    database: { minAcu: 2, maxAcu: 32, readers: 1, backupDays: 35 },
    monthlyBudgetDollars: 25_000,
  },
]
