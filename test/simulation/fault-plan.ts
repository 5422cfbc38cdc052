import { createRandom } from './random.ts'
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

/** Silence costs its caller seconds, so it comes a little less often. */
const WEIGHTS: Record<DatabaseFault, number> = {
  'cut before': 1,
  'cut after': 1.4,
  'answer late': 0.6,
  'statement late': 0.6,
  deadlock: 1,
  'statement timeout': 1,
  'disk full': 1,
  failover: 1,
  shutdown: 1,
}
const WEIGHT_SUM = DATABASE_FAULTS.reduce((sum, kind) => sum + WEIGHTS[kind], 0)

/** Decides what befalls each execution. Nothing does while it is quiet. */
export interface FaultPlan {
  isQuiet: boolean
  next(point: StatementPoint): DatabaseFault | null
}

/**
 * The n-th execution of a point has the same fate for the same seed, whatever other points do. Which caller's
 * execution is the n-th is up to the sockets.
 *
 * @param intensity multiplies every rate
 */
export function createFaultPlan(seed: number, intensity = 1): FaultPlan {
  const streams = new Map<string, ReturnType<typeof createRandom>>()
  const plan: FaultPlan = {
    isQuiet: false,
    next(point) {
      if (plan.isQuiet) return null
      const random = streams.get(point.name) ?? createRandom(seed, point.name)
      streams.set(point.name, random)
      const isStruck = random.chance(point.rate * intensity)
      let rest = random.next() * WEIGHT_SUM
      if (!isStruck) return null
      for (const kind of DATABASE_FAULTS) {
        rest -= WEIGHTS[kind]
        if (rest < 0) return kind
      }
      return 'shutdown'
    },
  }
  return plan
}
