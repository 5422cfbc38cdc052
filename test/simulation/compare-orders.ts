import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Db } from '../../db/client.ts'

/** One order of the outside, under an idempotency key of its own, and what it heard. */
export interface PlacedOrder {
  key: string
  n: number
  /** Of all answers; one when all is well. */
  jobIds: Set<string>
}

const UNIT_MICROS = 15_000n

/**
 * Compares orders that were answered, jobs that exist, files that lie in the store, and what was charged.
 *
 * @param place a database where every picture costs the list price, and the folder of its pictures
 * @returns one sentence for each thing that was lost or doubled
 */
export async function compareOrders(
  { db, objectDir }: { db: Db; objectDir: string },
  orders: readonly PlacedOrder[],
): Promise<string[]> {
  const broken: string[] = []
  const jobs = await db.sql<
    {
      id: string
      key: string | null
      n: number
      state: string
      errorCode: string | null
      isDeleted: boolean
      charged: bigint
    }[]
  >`
    select id, idempotency_key as key, n, state, coalesce(error_code, case when cancel_requested_at is not null then 'canceled' end) as "errorCode",
           deleted_at is not null as "isDeleted",
           (select coalesce(sum(net_micros), 0)::bigint from usage_event u where u.job_id = job.id) as charged
      from job`
  const outputs = await db.sql<{ jobId: string; key: string; sha256: string }[]>`
    select job_id as "jobId", object_key as key, sha256 from job_output`
  const jobsOf = Map.groupBy(jobs, ({ key }) => key)
  const outputsOf = Map.groupBy(outputs, ({ jobId }) => jobId)
  for (const order of orders) {
    const made = jobsOf.get(order.key) ?? []
    if (made.length > 1) broken.push(`doubled: order ${order.key} became ${made.length} jobs`)
    for (const jobId of order.jobIds) {
      if (!made.some(({ id }) => id === jobId))
        broken.push(`lost: job ${jobId} was accepted and is not there`)
    }
    if (order.jobIds.size > 1) broken.push(`doubled: order ${order.key} has two answers`)
    if (made.some(({ n }) => n !== order.n)) broken.push(`order ${order.key} has another number`)
  }
  const known = new Set(orders.map(({ key }) => key))
  for (const { id, n, state, charged, key, errorCode } of jobs) {
    if (key === null || !known.has(key)) broken.push(`job ${id} was never asked for`)
    const mine = outputsOf.get(id) ?? []
    if (state === 'succeeded' && errorCode === null && mine.length !== n)
      broken.push(`lost: job ${id} has ${mine.length} pictures of ${n} and no error`)
    const due = UNIT_MICROS * BigInt(mine.length)
    if (charged > due)
      broken.push(`doubled: job ${id} (${state}) is charged ${charged}, not ${due}`)
    if (charged < due) broken.push(`lost: job ${id} (${state}) is charged ${charged}, not ${due}`)
  }
  const deleted = new Set(jobs.filter(({ isDeleted }) => isDeleted).map(({ id }) => id))
  for (const { jobId, key, sha256 } of outputs) {
    const bytes = await readFile(join(objectDir, key)).catch(() => null)
    const is = bytes === null ? null : createHash('sha256').update(bytes).digest('hex')
    if (deleted.has(jobId)) {
      if (bytes !== null)
        broken.push(`a picture of job ${jobId}, which was deleted, is still there`)
      continue
    }
    if (is !== sha256) broken.push(`lost: a picture of job ${jobId} is not in the store`)
  }
  return broken
}
