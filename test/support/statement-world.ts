import { createId } from '../../db/ids.ts'
import { withTransaction } from '../../db/client.ts'
import type { Db } from '../../db/client.ts'
import { claimJob } from '../../db/job-claims.ts'
import { grantCredit } from '../../billing/credit.ts'
import { refundImages } from '../../billing/refund.ts'
import { settleJob } from '../../billing/settle.ts'
import { deliver, reserve } from './jobs.ts'
import type { BareTenant } from './jobs.ts'

/** Lets a test date what the product always dates now; the triggers that forbid it are off for this one change. */
export async function rewrite(db: Db, work: (tx: Db) => Promise<unknown>): Promise<void> {
  await withTransaction(db, async (tx) => {
    await tx.sql`set local session_replication_role = replica`
    await work(tx)
  })
}

/** A job that was accepted and ended at an instant, with `delivered` of `n` images. Returns its id. */
export async function buyAt(
  db: Db,
  who: BareTenant,
  order: { n: number; delivered: number; at: Date; id?: string },
): Promise<string> {
  const jobId = await holdAt(db, who, order)
  await claimJob(db, { jobId, workerId: 'w', leaseSeconds: 60, maxFailedAttempts: 3 })
  for (let idx = 0; idx < order.delivered; idx++) await deliver(db, jobId, 1, idx)
  const outcome = order.delivered > 0 ? 'succeeded' : 'failed'
  await settleJob(db, { jobId, attempt: 1, outcome })
  await rewrite(db, async ({ sql }) => {
    const source = jobId.slice(4)
    await sql`update usage_event set occurred_at = ${order.at} where job_id = ${jobId}`
    await sql`update reservation set settled_at = ${order.at} where job_id = ${jobId}`
    await sql`update job set finished_at = ${order.at} where id = ${jobId}`
    await sql`update ledger_txn set occurred_at = ${order.at}
               where source_id = ${source} and kind in ('release', 'charge')`
  })
  return jobId
}

/** A job that was accepted at an instant and has not ended. Returns its id. */
export async function holdAt(
  db: Db,
  who: BareTenant,
  order: { n: number; at: Date; id?: string },
): Promise<string> {
  const result = await reserve(db, who, {
    n: order.n,
    ...(order.id === undefined ? {} : { id: order.id }),
  })
  if (!result.ok) throw new Error(result.reason)
  const { jobId } = result
  await rewrite(db, async ({ sql }) => {
    await sql`update reservation set created_at = ${order.at} where job_id = ${jobId}`
    await sql`update job set created_at = ${order.at} where id = ${jobId}`
    await sql`update ledger_txn set occurred_at = ${order.at}
               where source_id = ${jobId.slice(4)} and kind = 'hold'`
  })
  return jobId
}

/** Gives back one image at an instant; `id` names the refund and its correction. */
export async function refundAt(
  db: Db,
  line: { usageId: string; at: Date; id?: string },
): Promise<void> {
  const id = line.id ?? createId('correction')
  const [used] = await db.sql<{ orgId: string; jobId: string; idx: number }[]>`
    select org_id as "orgId", job_id as "jobId", idx from usage_event where id = ${line.usageId}`
  if (!used) throw new Error(`there is no usage line ${line.usageId}`)
  const { orgId, jobId, idx } = used
  await refundImages(db, { orgId, jobId, indexes: [idx], refundId: id })
  await rewrite(db, async ({ sql }) => {
    await sql`update usage_correction set id = ${id}, occurred_at = ${line.at}
               where usage_event_id = ${line.usageId} and reason = 'refund'`
    await sql`update ledger_txn set occurred_at = ${line.at}
               where kind = 'refund' and source_id = ${`${id}:${jobId}:${idx}`}`
  })
}

/** Promotional credit that is burned before any other, given at an instant. */
export async function giveAt(
  db: Db,
  gift: { orgId: string; amountMicros: bigint; sourceId: string; at: Date },
): Promise<void> {
  const { at, ...grant } = gift
  await grantCredit(db, { ...grant, kind: 'promo', priority: 10 })
  await dateGrant(db, { sourceId: gift.sourceId, at })
}

/** Dates credit that was granted. */
export async function dateGrant(db: Db, grant: { sourceId: string; at: Date }): Promise<void> {
  const { sourceId, at } = grant
  await rewrite(db, async ({ sql }) => {
    await sql`update ledger_txn set occurred_at = ${at} where kind = 'credit' and source_id = ${sourceId}`
    await sql`update credit_grant set created_at = ${at} where source_id = ${sourceId}`
  })
}

/** Dates whatever a key's last move has written. */
export async function dateMove(db: Db, assignmentId: string, at: Date): Promise<void> {
  await rewrite(db, async ({ sql }) => {
    await sql`update usage_correction set occurred_at = ${at} where source_id = ${assignmentId}`
    await sql`update ledger_txn set occurred_at = ${at}
               where kind = 'move' and source_id like ${`${assignmentId}:%`}`
  })
}

export async function textOf(pieces: AsyncIterable<string>): Promise<string> {
  let text = ''
  for await (const piece of pieces) text += piece
  return text
}
