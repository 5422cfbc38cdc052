import type { FaultLedger } from './fault-ledger.ts'
import { createRandom } from './random.ts'
import type { Random } from './random.ts'
import type { StatementPoint } from './statement-points.ts'

/** What can befall a statement. */
export const DATABASE_FAULTS = [
  /** The connection breaks before the statement reaches the server. */
  'cut before',
  /** The server has done it, and the connection breaks before the answer. */
  'cut after',
  /** The server has done it, and its answer does not come until the caller gives up; the connection stays. */
  'answer late',
  /** The statement reaches the server after its caller has given up. */
  'statement late',
  /** 40P01, in place of the statement. */
  'deadlock',
  /** 57014, in place of the statement. */
  'statement timeout',
  /** 53100, in place of the statement. */
  'disk full',
  /** 25006, in place of the statement: the server has become a standby. */
  'failover',
  /** 57P01, and the connection is closed. */
  'shutdown',
] as const
export type DatabaseFault = (typeof DATABASE_FAULTS)[number]

/** Silence costs its caller seconds, so it may stay a little behind the others. */
const SHARES: Partial<Record<DatabaseFault, number>> = {
  'answer late': 0.85,
  'statement late': 0.85,
}
/** How often the kind that fired least at a point is taken; else any. */
const PREFERENCE = 0.8
/**
 * How likely a world is after a point: each is after some of them, and lets others pass, so that what only comes after
 * them is met too. Few fired there yet, as many as elsewhere, or more.
 */
const AFTER = { few: 0.6, usual: 0.4, many: 0.15 } as const
const AFTER_RATE = 1.5
const OTHER_RATE = 0.2
const MAX_RATE = 0.75

/** What the plan wants to know of the faults that fired. */
export type Fired = Pick<FaultLedger, 'count' | 'meanOfReached'>

/** Decides what befalls each execution. Nothing does while it is quiet. */
export interface FaultPlan {
  isQuiet: boolean
  /** @param kinds those that can occur at this execution */
  next(point: StatementPoint, kinds: readonly DatabaseFault[]): DatabaseFault | null
}

/**
 * Strikes so that all points and kinds are met about equally often, by what has fired so far: `fired` may belong to
 * many worlds. Each point has random numbers of its own; which caller's execution gets which is up to the sockets.
 */
export function createFaultPlan(seed: number, fired: Fired): FaultPlan {
  const streams = new Map<string, { random: Random; rate: number }>()
  const streamOf = ({ name, rate }: StatementPoint) => {
    const known = streams.get(name)
    if (known) return known
    const random = createRandom(seed, name)
    const isAfter = random.chance(AFTER[standing(name)])
    const stream = { random, rate: Math.min(MAX_RATE, rate * (isAfter ? AFTER_RATE : OTHER_RATE)) }
    streams.set(name, stream)
    return stream
  }
  const standing = (name: string) => {
    const mine = fired.count(name)
    const usual = fired.meanOfReached()
    if (mine < usual / 2) return 'few'
    return mine > usual * 1.5 ? 'many' : 'usual'
  }
  const plan: FaultPlan = {
    isQuiet: false,
    next(point, kinds) {
      if (plan.isQuiet) return null
      const { random, rate } = streamOf(point)
      if (!random.chance(rate)) return null
      const any = kinds[random.int(kinds.length)] ?? null
      if (!random.chance(PREFERENCE)) return any
      const shareOf = (kind: DatabaseFault) => fired.count(point.name, kind) / (SHARES[kind] ?? 1)
      const less = (one: DatabaseFault, other: DatabaseFault) =>
        shareOf(other) < shareOf(one) ? other : one
      return any && kinds.reduce(less, any)
    },
  }
  return plan
}
