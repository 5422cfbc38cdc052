import type { Db } from '../db/client.ts'

/** One charged image. Amounts in micro-USD; net = list - discount. */
export interface UsageLine {
  readonly id: string
  readonly jobId: string
  readonly idx: number
  readonly teamId: string
  readonly keyId: string
  readonly skuId: string
  readonly priceVersionId: string
  readonly listMicros: bigint
  readonly discountMicros: bigint
  readonly netMicros: bigint
  /** When the job was settled. */
  readonly occurredAt: Date
}

/** A span of time: `from` is in it, `to` is not. */
export interface UsageSpan {
  readonly orgId: string
  readonly from: Date
  readonly to: Date
}

/**
 * A page of an org's charged images, oldest first.
 *
 * A span that has ended is complete once settlements that began in it have committed: after the statement
 * timeout of 30 seconds nothing more appears in it.
 *
 * @param page.after id of the last line of the page before
 */
export async function listUsage(
  db: Db,
  span: UsageSpan,
  page: { after?: string; limit: number },
): Promise<UsageLine[]> {
  return await db.sql<UsageLine[]>`
    select id, job_id as "jobId", idx, team_id as "teamId", key_id as "keyId", sku_id as "skuId",
           price_version_id as "priceVersionId", list_micros as "listMicros",
           discount_micros as "discountMicros", net_micros as "netMicros", occurred_at as "occurredAt"
      from usage_event
     where org_id = ${span.orgId} and occurred_at >= ${span.from} and occurred_at < ${span.to}
       and (${page.after ?? null}::text is null or (occurred_at, id) >
            (select occurred_at, id from usage_event where id = ${page.after ?? null} and org_id = ${span.orgId}))
     order by occurred_at, id limit ${page.limit}`
}

export type UsageGroup = 'team' | 'key' | 'sku' | 'day'

/** Images and money of one team, key, SKU or UTC day (`2026-11-24`). */
export interface UsageSum {
  readonly group: string
  readonly images: bigint
  readonly listMicros: bigint
  readonly discountMicros: bigint
  readonly netMicros: bigint
}

/** Sums of an org's charged images, by group in ascending order; a group without usage is left out. */
export async function sumUsage(db: Db, span: UsageSpan, by: UsageGroup): Promise<UsageSum[]> {
  const group = {
    team: db.sql`team_id`,
    key: db.sql`key_id`,
    sku: db.sql`sku_id`,
    day: db.sql`to_char(occurred_at at time zone 'UTC', 'YYYY-MM-DD')`,
  }[by]
  // sum() of bigint is numeric; nine trillion dollars are below its cast's end.
  return await db.sql<UsageSum[]>`
    select ${group} as "group", count(*) as images, sum(list_micros)::bigint as "listMicros",
           sum(discount_micros)::bigint as "discountMicros", sum(net_micros)::bigint as "netMicros"
      from usage_event
     where org_id = ${span.orgId} and occurred_at >= ${span.from} and occurred_at < ${span.to}
     group by 1 order by 1`
}

/** A charged image of a job and what was given back of it. */
export interface JobUsage {
  readonly idx: number
  readonly skuId: string
  readonly listMicros: bigint
  readonly discountMicros: bigint
  readonly netMicros: bigint
  /** The part of net that promotional credit paid. */
  readonly creditMicros: bigint
  readonly refundedMicros: bigint
  readonly occurredAt: Date
}

/** The charged images of a job, by index. */
export async function listUsageOfJob(db: Db, jobId: string): Promise<JobUsage[]> {
  return await db.sql<JobUsage[]>`
    select u.idx, u.sku_id as "skuId", u.list_micros as "listMicros", u.discount_micros as "discountMicros",
           u.net_micros as "netMicros", u.credit_micros as "creditMicros", u.occurred_at as "occurredAt",
           coalesce((select -sum(c.net_micros) from usage_correction c
                      where c.usage_event_id = u.id and c.reason = 'refund'), 0)::bigint as "refundedMicros"
      from usage_event u where u.job_id = ${jobId} order by u.idx`
}
