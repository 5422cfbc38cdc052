import type { TextGuarantee } from '../../db/text-terms.ts'

/** What the outside of the product knows by itself: the oracle believes this and nothing that the product wrote. */
export interface Journal {
  readonly orders: Order[]
  readonly grants: Grant[]
  readonly refunds: Refund[]
  readonly statements: ClosedStatement[]
  /** Bodies that reached a receiver of webhooks, by job. */
  readonly deliveries: Map<string, Set<string>>
  /** Whether a picture was read with the text that its order wants, by its checksum. */
  readonly readings: Map<string, boolean>
  /** Which worker drew a picture, by its checksum. */
  readonly makers: Map<string, string>
  /** Workers that asked for the end of a job, by job. */
  readonly enders: Map<string, Set<string>>
  /** How many messages of a job the queue took, those among them that it lost. */
  readonly queued: Map<string, bigint>
  /** Sentences about what must not happen, from whoever saw it. */
  readonly broken: string[]
}

/** One thing that a caller wants, however often it had to ask. */
export interface Order {
  readonly orgId: string
  readonly keyId: string
  readonly idempotencyKey: string | null
  readonly unitMicros: bigint
  /** What it was promised for pictures without their text; null where nobody reads them. */
  readonly guarantee: TextGuarantee | null
  /** Images asked for by each job id that was ever sent; a changed body has another number. */
  readonly tried: Map<string, number>
  /** Job ids that an answer named, with the number of images of the request that was answered. */
  readonly acknowledged: Map<string, number>
  /** Job ids whose cancellation was confirmed before anything ran. */
  isCanceled: boolean
}

export interface Grant {
  readonly orgId: string
  readonly sourceId: string
  readonly amountMicros: bigint
  readonly kind: 'paid' | 'promo'
  isAcknowledged: boolean
}

export interface Refund {
  readonly orgId: string
  readonly jobId: string
  readonly indexes: readonly number[]
  isAcknowledged: boolean
}

export interface ClosedStatement {
  readonly orgId: string
  readonly teamId: string | null
  readonly month: string
  readonly sha256: string
  readonly json: string
}

export function createJournal(): Journal {
  return {
    orders: [],
    grants: [],
    refunds: [],
    statements: [],
    deliveries: new Map(),
    readings: new Map(),
    makers: new Map(),
    enders: new Map(),
    queued: new Map(),
    broken: [],
  }
}

/** Whether a stored picture has to be paid for: what was promised to its order, and what was read in it. */
export function isDue(
  { orders, readings }: Pick<Journal, 'orders' | 'readings'>,
  jobId: string,
  sha256: string,
): boolean {
  const order = orders.find(({ tried }) => tried.has(jobId))
  return order?.guarantee !== 'refund' || readings.get(sha256) === true
}
