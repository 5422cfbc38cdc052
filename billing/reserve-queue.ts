import type { Db } from '../db/client.ts'
import { isOutage } from '../db/outage.ts'
import { reserveJob, reserveJobs } from './reserve.ts'
import type { ReserveInput, ReserveResult } from './reserve.ts'

/** Accepts a job, as `reserveJob` says. */
export type Reserve = (input: ReserveInput) => Promise<ReserveResult>

/** So many calls of one org wait for their turn that this one would wait too long. It was not made. */
export class ReserveOverload extends Error {
  override readonly name = 'ReserveOverload'
  constructor() {
    super('too many reservations of one organisation are waiting')
  }
}

interface Call {
  input: ReserveInput
  resolve: (result: ReserveResult) => void
  reject: (error: unknown) => void
}

/** Some milliseconds of the database's time; more would only make the first of them wait for the last. */
const MAX_BATCH = 50
/** Twenty batches: a second or less on a database that is well. */
const MAX_WAITING = 1_000

/**
 * Puts one writer before the budget rows that all calls of an org need: a call that finds its org's writer idle is
 * made at once; those that come while it is at work go together in the next batch, in the order in which they came.
 * Waiting here is cheaper than for a row lock: such a row gets slower with every connection that wants it.
 *
 * Orgs do not wait for each other. A call that is broken fails alone. When the database is out of reach the calls that
 * wait fail with the one that found out.
 *
 * @returns calls reject with `ReserveOverload` when too many wait, else as `reserveJob` does
 */
export function createReserveQueue(
  db: Db,
  {
    maxBatch = MAX_BATCH,
    maxWaiting = MAX_WAITING,
  }: { maxBatch?: number; maxWaiting?: number } = {},
): Reserve {
  /** Of each org whose writer is at work, the calls that came meanwhile. */
  const waitingByOrg = new Map<string, Call[]>()

  const write = async (orgId: string, first: Call, waiting: Call[]) => {
    for (let batch = [first]; batch.length > 0; batch = waiting.splice(0, maxBatch)) {
      const outage = await writeBatch(db, batch)
      if (outage === null) continue
      for (const call of waiting.splice(0)) call.reject(outage.error)
    }
    waitingByOrg.delete(orgId)
  }

  return (input) =>
    new Promise((resolve, reject) => {
      const { orgId } = input.job
      const call = { input, resolve, reject }
      const waiting = waitingByOrg.get(orgId)
      if (waiting === undefined) {
        const later: Call[] = []
        waitingByOrg.set(orgId, later)
        void write(orgId, call, later)
      } else if (waiting.length < maxWaiting) {
        waiting.push(call)
      } else {
        reject(new ReserveOverload())
      }
    })
}

/** Answers all these calls. @returns why none could be made, where the database is out of reach */
async function writeBatch(db: Db, batch: readonly Call[]): Promise<{ error: unknown } | null> {
  try {
    const results = await reserveJobs(
      db,
      batch.map(({ input }) => input),
    )
    batch.forEach(({ resolve, reject }, index) => {
      const result = results[index]
      if (result) resolve(result)
      else reject(new Error('a reservation has no result'))
    })
    return null
  } catch (error) {
    if (isOutage(error) || batch.length === 1) {
      for (const { reject } of batch) reject(error)
      return isOutage(error) ? { error } : null
    }
  }
  // One of them is broken, and none was made: each for itself, still in order.
  for (const [index, { input, resolve, reject }] of batch.entries()) {
    try {
      resolve(await reserveJob(db, input))
    } catch (error) {
      reject(error)
      if (!isOutage(error)) continue
      for (const later of batch.slice(index + 1)) later.reject(error)
      return { error }
    }
  }
  return null
}
